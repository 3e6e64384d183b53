package kernel

import "math"

// DynamicBlock is the number of scales that share one nested constant, bitsandbytes' nested_blocksize.
const DynamicBlock = 256

// dynamicPositive holds the bits of the 127 entries between 0 and 1 of the signed dynamic map. They are
// 10^(i-6) times the middles of 2^i equal parts of [0.1, 1], for i = 0 to 6, in the float32 arithmetic of
// create_dynamic_map(signed=True) (bitsandbytes/functional.py; 8-bit dynamic tree quantization, arXiv 1511.04561).
var dynamicPositive = [127]uint32{
	0x3513a3b7, 0x365a1a94, 0x370205ff, 0x37b24206, 0x38378034, 0x388aefb3, 0x38ba1f4b, 0x3923d70b,
	0x398ce705, 0x39c7e283, 0x3a016f01, 0x3a1eecc1, 0x3a3c6a80, 0x3a59e83e, 0x3a7765ff, 0x3aa7ef9d,
	0x3af1a9fc, 0x3b1db22d, 0x3b428f5c, 0x3b676c8a, 0x3b8624dd, 0x3b989374, 0x3bab020d, 0x3bbd70a4,
	0x3bcfdf3b, 0x3be24dd3, 0x3bf4bc6a, 0x3c039581, 0x3c0ccccd, 0x3c160418, 0x3c1f3b64, 0x3c3ae148,
	0x3c68f5c3, 0x3c8b851f, 0x3ca28f5d, 0x3cb9999a, 0x3cd0a3d7, 0x3ce7ae15, 0x3cfeb852, 0x3d0ae148,
	0x3d166667, 0x3d21eb85, 0x3d2d70a3, 0x3d38f5c3, 0x3d447ae1, 0x3d500000, 0x3d5b851f, 0x3d670a3d,
	0x3d728f5d, 0x3d7e147b, 0x3d84cccd, 0x3d8a8f5d, 0x3d9051eb, 0x3d96147b, 0x3d9bd70a, 0x3da1999a,
	0x3da75c2a, 0x3dad1eb8, 0x3db2e148, 0x3db8a3d7, 0x3dbe6667, 0x3dc428f7, 0x3dc9eb85, 0x3ddb3334,
	0x3df80000, 0x3e0a6666, 0x3e18cccd, 0x3e273333, 0x3e35999a, 0x3e440000, 0x3e526666, 0x3e60cccd,
	0x3e6f3333, 0x3e7d9999, 0x3e860000, 0x3e8d3334, 0x3e946666, 0x3e9b999a, 0x3ea2cccc, 0x3eaa0000,
	0x3eb13333, 0x3eb86666, 0x3ebf999a, 0x3ec6cccc, 0x3ece0000, 0x3ed53333, 0x3edc6666, 0x3ee3999a,
	0x3eeacccc, 0x3ef20000, 0x3ef93332, 0x3f003333, 0x3f03cccc, 0x3f076666, 0x3f0b0000, 0x3f0e999a,
	0x3f123334, 0x3f15cccd, 0x3f196666, 0x3f1d0000, 0x3f20999a, 0x3f243334, 0x3f27cccd, 0x3f2b6666,
	0x3f2f0000, 0x3f32999a, 0x3f363334, 0x3f39cccd, 0x3f3d6666, 0x3f410000, 0x3f44999a, 0x3f483333,
	0x3f4bcccd, 0x3f4f6666, 0x3f530000, 0x3f56999a, 0x3f5a3333, 0x3f5dcccd, 0x3f616666, 0x3f650000,
	0x3f68999a, 0x3f6c3333, 0x3f6fcccd, 0x3f736666, 0x3f770000, 0x3f7a999a, 0x3f7e3333,
}

// dynamicMap is the map in ascending order: the 127 negated, 0, the 127, and 1. There is no -1.
// dynamicThreshold[i] is the float32 midpoint of entries i and i+1.
var dynamicMap, dynamicThreshold = newDynamicMap()

func newDynamicMap() (m [256]float32, threshold [256]float32) {
	for i, u := range dynamicPositive {
		m[128+i] = math.Float32frombits(u)
		m[126-i] = -m[128+i]
	}
	m[255] = 1
	return m, thresholds8(&m)
}

// thresholds8 are the float32 midpoints of a map's neighbours, and infinity.
func thresholds8(m *[256]float32) (threshold [256]float32) {
	for i := range 255 {
		threshold[i] = (m[i] + m[i+1]) / 2
	}
	threshold[255] = float32(math.Inf(1))
	return threshold
}

// MapQuantize is DynamicQuantize with another map of 256 finite values in ascending order.
func MapQuantize(m *[256]float32, codes []byte, nested []float32, scales []float32, offset float32) {
	if *m == dynamicMap {
		DynamicQuantize(codes, nested, scales, offset)
		return
	}
	threshold := thresholds8(m)
	quantize8(&threshold, codes, nested, scales, offset)
}

// MapDequantize is DynamicDequantize with another map.
func MapDequantize(m *[256]float32, scales []float32, codes []byte, nested []float32, offset float32) {
	if *m == dynamicMap {
		DynamicDequantize(scales, codes, nested, offset)
		return
	}
	dequantize8(m, scales, codes, nested, offset)
}

// DynamicMap returns the 256 values of the signed dynamic map.
func DynamicMap() [256]float32 { return dynamicMap }

// dynamicQuantizeGeneric is the specification of DynamicQuantize.
func dynamicQuantizeGeneric(codes []byte, nested []float32, scales []float32, offset float32) {
	quantize8(&dynamicThreshold, codes, nested, scales, offset)
}

func quantize8(threshold *[256]float32, codes []byte, nested []float32, scales []float32, offset float32) {
	for b := range nested {
		lo, hi := b*DynamicBlock, min((b+1)*DynamicBlock, len(scales))
		var m uint32
		for _, s := range scales[lo:hi] {
			m = max(m, math.Float32bits(s-offset)&0x7fffffff)
		}
		a := math.Float32frombits(m)
		nested[b] = a
		out := codes[lo:hi]
		if m == 0 {
			clear(out)
			continue
		}
		for i, s := range scales[lo:hi] {
			out[i] = code8(threshold, (s-offset)/a)
		}
	}
}

// code8 counts the thresholds strictly below y by bisection. Its eight comparisons are near impossible to predict,
// so there is no branch on them.
func code8(t *[256]float32, y float32) uint8 {
	c := above(y, t[127]) << 7
	c += above(y, t[c+63]) << 6
	c += above(y, t[c+31]) << 5
	c += above(y, t[c+15]) << 4
	c += above(y, t[c+7]) << 3
	c += above(y, t[c+3]) << 2
	c += above(y, t[c+1]) << 1
	return c + above(y, t[c])
}

// above is 1 if y > t and else 0. The compiler makes a flag of it, not a jump.
func above(y, t float32) uint8 {
	var b uint8
	if y > t {
		b = 1
	}
	return b
}

// dynamicDequantizeGeneric is the specification of DynamicDequantize.
func dynamicDequantizeGeneric(scales []float32, codes []byte, nested []float32, offset float32) {
	dequantize8(&dynamicMap, scales, codes, nested, offset)
}

func dequantize8(m *[256]float32, scales []float32, codes []byte, nested []float32, offset float32) {
	for b, a := range nested {
		lo, hi := b*DynamicBlock, min((b+1)*DynamicBlock, len(codes))
		out := scales[lo:hi]
		for i, c := range codes[lo:hi] {
			out[i] = float32(m[c]*a) + offset
		}
	}
}
