//go:build !race

package allocate

const underRace = false
