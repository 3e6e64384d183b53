//go:build race

package main

// underRace is true under the race detector, where a search takes a hundred times as long.
const underRace = true
