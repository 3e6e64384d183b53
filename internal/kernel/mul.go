package kernel

import "math"

// TileRows and TileCols are the shape of a tile of a matrix product.
const (
	TileRows = 6
	TileCols = 16
)

// mulTileGeneric is the specification of MulTile.
func mulTileGeneric(c []float32, stride int, a, b []float32) {
	for i := range TileRows {
		row := c[i*stride:][:TileCols]
		for j := range row {
			var sum float32
			for k := 0; k < len(a)/TileRows; k++ {
				sum = fma32(a[k*TileRows+i], b[k*TileCols+j], sum)
			}
			row[j] += sum
		}
	}
}

// mulRowGeneric is the specification of MulRow.
func mulRowGeneric(c, a, b []float32) {
	c = c[:TileCols]
	for j := range c {
		var sum float32
		for k, v := range a {
			sum = fma32(v, b[k*TileCols+j], sum)
		}
		c[j] += sum
	}
}

// addScaledGeneric is the specification of AddScaledTo.
func addScaledGeneric(dst, c []float32, by float32, x []float32) {
	x, c = x[:len(dst)], c[:len(dst)]
	for i, v := range x {
		dst[i] = c[i] + float32(by*v)
	}
}

// fma32 is x*y + z rounded once, as the instructions round it. The product is exact in float64; so that rounding the sum to
// float64 and then to float32 is no different from rounding it once, the first rounding is to odd.
func fma32(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	t := s - p
	e := (p - (s - t)) + (c - t) // what the sum lost, exactly
	if u := math.Float64bits(s); u&1 == 0 && (e > 0 || e < 0) {
		if (e > 0) == (s > 0) {
			u++
		} else {
			u--
		}
		s = math.Float64frombits(u)
	}
	return float32(s)
}
