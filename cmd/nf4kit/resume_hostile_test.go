//go:build hostile

package main

func init() { killTrials = 200 }
