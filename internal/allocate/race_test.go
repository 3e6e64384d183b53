//go:build race

package allocate

// underRace is true under the race detector, where a search takes a hundred times as long.
const underRace = true
