package kernel

// fitLanes is how many running sums GridFit has of each kind: element i of a block goes to lane i%fitLanes, in this order.
const fitLanes = 16

// gridFitGeneric is the specification of GridFit.
func gridFitGeneric(t Type, wq, qq []float32, x, hx, h []float32, inv []float32) {
	b := &books[t]
	hx, h = hx[:len(x)], h[:len(x)]
	for k, r := range inv {
		var a, c [fitLanes]float32
		for i, v := range x {
			q := b.value[b.search(clampUnit(v*r))]
			a[i%fitLanes] += float32(q * hx[i])
			c[i%fitLanes] += float32(float32(q*h[i]) * q)
		}
		wq[k], qq[k] = foldFit(&a), foldFit(&c)
	}
}

// foldFit folds the lanes by halves.
func foldFit(v *[fitLanes]float32) float32 {
	for n := fitLanes / 2; n > 0; n /= 2 {
		for i := range n {
			v[i] += v[i+n]
		}
	}
	return v[0]
}
