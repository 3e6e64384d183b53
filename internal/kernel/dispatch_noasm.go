//go:build purego || !(amd64 || arm64)

package kernel

// This file stands in for the dispatch of an architecture where there is no assembly. Each function there does as many
// leading blocks (convertVector, pairSumsSteps and deltaSumsSteps: elements) as its assembly can and returns how many that was; the caller does the rest.

func detect() []implementation { return nil }

// asBytes returns the memory of v where float32 values lie there in little-endian order, or nil.
func asBytes(v []float32) []byte { return nil }

func absmaxBlocks(e Elem, absmax []float32, src []byte, blockSize int) int { return 0 }

func codesBlocks(t Type, e Elem, codes []byte, absmax []float32, src []byte, blockSize int) int {
	return 0
}

func dequantizeBlocks(t Type, e Elem, dst, codes []byte, absmax []float32, blockSize int) int {
	return 0
}

func finiteSteps(e Elem, src []byte) int { return 0 }

func convertVector(dst []byte, de Elem, src []byte, se Elem) int { return 0 }

func dynamicQuantizeBlocks(codes []byte, nested, scales []float32, offset float32) int { return 0 }

func dynamicDequantizeBlocks(scales []float32, codes []byte, nested []float32, offset float32) int {
	return 0
}

func errorSumsBlocks(l *lanes, t Type, e Elem, src, codes []byte, scale []float32, blockSize int) int {
	return 0
}

func pairSumsSteps(l *lanes, x, v []float32) int { return 0 }

func deltaSumsSteps(l *deltaLanes, w, d []float32, by float32, v []float32) int { return 0 }

func e2m1Blocks(codes []byte, v, x, scale []float32, blockSize int) int { return 0 }

func gridFitSteps(t Type, wq, qq, x, hx, h, inv []float32) bool { return false }

func nearestSteps(t Type, codes []byte, values, x, scales []float32) int { return 0 }

func mulTile(c []float32, stride int, a, b []float32) bool { return false }

func mulRow(c, a, b []float32) bool { return false }

func addScaledSteps(dst, c []float32, by float32, x []float32) int { return 0 }
