package forward

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// A layer is a block with the tensors that it names.
type layer struct {
	block
	attnIn, attnOut, mlpIn, mlpOut *boundNorm
	q, k, v, o, qkv                *product
	qNorm, kNorm                   *boundNorm
	sinks                          *weights.Tensor
	mlp                            *boundMLP
	experts                        *boundExperts

	linears []*product // in the order of their use
}

type boundNorm struct {
	norm
	width        int
	weight, bias []*weights.Tensor // one, or one for each head
}

type boundMLP struct {
	mlp
	gate, up, down, gateUp *product
}

type boundExperts struct {
	experts
	router     *product
	correction *weights.Tensor
	each       []boundMLP
	shared     *boundMLP
	sharedGate *product
}

// A binder finds the tensors of a description. The first thing that is not there or of another shape is kept.
type binder struct {
	d      *Decoder
	prefix func(string) string
	err    error
}

func (b *binder) fail(tensor, expected, found, hint string) {
	if b.err == nil {
		b.err = &checkpoint.InputError{File: b.d.model.Source.Path, Tensor: tensor, Expected: expected, Found: found, Hint: hint}
	}
}

// find returns a tensor of that shape; -1 is any size.
func (b *binder) find(name string, shape ...int) *weights.Tensor {
	name = b.prefix(name)
	t := b.d.tensors[name]
	want := fmt.Sprintf("floats of shape %v", shape)
	switch {
	case b.err != nil:
		return nil
	case t == nil:
		b.fail(name, want, "no such tensor", "nf4kit verify says whether the checkpoint is whole")
		return nil
	case t.Values == nil || !weights.IsFloat(t.DType) || !sameShape(t.Shape, shape):
		b.fail(name, want, fmt.Sprintf("%s %v", t.DType, t.Shape), "config.json is that of another model, or names other sizes")
		return nil
	}
	return t
}

func sameShape(got []int64, want []int) bool {
	if len(got) != len(want) {
		return false
	}
	for i, n := range want {
		if n >= 0 && got[i] != int64(n) {
			return false
		}
	}
	return true
}

// linear finds a Linear's weight and bias; nil if it has no name.
func (b *binder) linear(prefix string, l linear, out, in int) *product {
	if l.name == "" || b.err != nil {
		return nil
	}
	name := prefix + l.name
	p := &product{Linear: Linear{Name: b.prefix(name + ".weight"), Expert: -1, Out: out, In: in}}
	if t := b.d.tensors[p.Name]; t != nil && t.Class.Conv1D && !t.Turned {
		p.t, p.across = b.find(name+".weight", in, out), true
	} else {
		p.t = b.find(name+".weight", out, in)
	}
	if l.bias {
		p.bias = b.find(name+".bias", out)
	}
	return p
}

func (b *binder) norm(prefix string, n norm, width, heads int) *boundNorm {
	if n.name == "" || b.err != nil {
		return nil
	}
	out := &boundNorm{norm: n, width: width}
	if n.kind == bare {
		return out
	}
	if n.modules {
		for h := range heads {
			out.weight = append(out.weight, b.find(fmt.Sprintf("%s%s.norms.%d.weight", prefix, n.name, h), width))
		}
		return out
	}
	shape := []int{width}
	if n.perHead {
		shape = []int{heads, width}
	}
	out.weight = []*weights.Tensor{b.find(prefix+n.name+".weight", shape...)}
	if n.bias {
		out.bias = []*weights.Tensor{b.find(prefix+n.name+".bias", shape...)}
	}
	return out
}

// layer binds one block.
func (b *binder) layer(blk *block, width int) *layer {
	l := &layer{block: *blk}
	p, a := blk.prefix, &blk.attn
	l.attnIn, l.attnOut = b.norm(p, blk.attnIn, width, 1), b.norm(p, blk.attnOut, width, 1)
	l.mlpIn, l.mlpOut = b.norm(p, blk.mlpIn, width, 1), b.norm(p, blk.mlpOut, width, 1)
	if a.qkv.name != "" {
		l.qkv = b.linear(p, a.qkv, (a.heads+2*a.kvHeads)*a.dim, width)
	} else {
		l.q, l.k, l.v = b.linear(p, a.q, a.heads*a.dim, width), b.linear(p, a.k, a.kvHeads*a.dim, width), b.linear(p, a.v, a.kvHeads*a.dim, width)
	}
	l.o = b.linear(p, a.o, width, a.heads*a.dim)
	qw, kw := a.dim, a.dim
	if a.wholeNorm {
		qw, kw = a.heads*a.dim, a.kvHeads*a.dim
	}
	l.qNorm, l.kNorm = b.norm(p, a.qNorm, qw, a.heads), b.norm(p, a.kNorm, kw, a.kvHeads)
	if a.sinks != "" {
		l.sinks = b.find(p+a.sinks, a.heads)
	}
	if blk.experts != nil {
		l.experts = b.experts(p, blk.experts, width)
	} else {
		l.mlp = b.mlp(p, &blk.mlp, width)
	}
	l.list()
	return l
}

// list collects the Linears.
func (l *layer) list() {
	add := func(products ...*product) {
		for _, p := range products {
			if p != nil {
				l.linears = append(l.linears, p)
			}
		}
	}
	add(l.qkv, l.q, l.k, l.v, l.o)
	if l.mlp != nil {
		add(l.mlp.gateUp, l.mlp.gate, l.mlp.up, l.mlp.down)
	}
	if e := l.experts; e != nil {
		add(e.router)
		for i := range e.each {
			add(e.each[i].gateUp, e.each[i].gate, e.each[i].up, e.each[i].down)
		}
		if s := e.shared; s != nil {
			add(s.gateUp, s.gate, s.up, s.down)
		}
		add(e.sharedGate)
	}
}

func (b *binder) mlp(prefix string, f *mlp, width int) *boundMLP {
	m := &boundMLP{mlp: *f}
	if f.gateUp.name != "" {
		m.gateUp = b.linear(prefix, f.gateUp, 2*f.width, width)
	} else {
		m.gate, m.up = b.linear(prefix, f.gate, f.width, width), b.linear(prefix, f.up, f.width, width)
	}
	m.down = b.linear(prefix, f.down, width, f.width)
	return m
}

func (b *binder) experts(prefix string, e *experts, width int) *boundExperts {
	out := &boundExperts{experts: *e}
	// Mixtral's router has another name where its experts are in stacks.
	if l := e.router; b.d.tensors[b.prefix(prefix+l.name+".weight")] == nil && strings.HasPrefix(l.name, "block_sparse_moe.") {
		out.experts.router.name = "mlp." + strings.TrimPrefix(l.name, "block_sparse_moe.")
	}
	out.router = b.linear(prefix, out.experts.router, e.n, width)
	if e.correction != "" {
		out.correction = b.find(prefix+e.correction, e.n)
	}
	if b.d.tensors[b.prefix(prefix+e.stacks+".gate_up_proj")] != nil || e.each.down.name == "" {
		out.each = b.stacks(prefix+e.stacks, e, width)
	} else {
		for i := range e.n {
			one := e.each
			for _, l := range []*linear{&one.gate, &one.up, &one.down} {
				l.name = strings.Replace(l.name, "%d", strconv.Itoa(i), 1)
			}
			if out.each = append(out.each, *b.mlp(prefix, &one, width)); b.err != nil {
				return out
			}
		}
	}
	if e.shared != nil {
		out.shared = b.mlp(prefix, e.shared, width)
		out.sharedGate = b.linear(prefix, linear{name: e.sharedGate}, 1, width)
	}
	return out
}

// stacks binds the experts that lie in two tensors of three dimensions.
func (b *binder) stacks(module string, e *experts, width int) []boundMLP {
	one := func(name string, out, in int) []product {
		shape := []int{e.n, out, in}
		if e.across {
			shape = []int{e.n, in, out}
		}
		t := b.find(module+"."+name, shape...)
		var bias *weights.Tensor
		if e.bias {
			bias = b.find(module+"."+name+"_bias", e.n, out)
		}
		if b.err != nil {
			return nil
		}
		ps := make([]product, e.n)
		for i := range ps {
			ps[i] = product{Linear: Linear{Name: t.Name, Expert: i, Out: out, In: in}, t: t, row: int64(i) * int64(shape[1]), across: e.across,
				bias: bias, biasAt: int64(i) * int64(out)}
		}
		return ps
	}
	gateUp, down := one("gate_up_proj", 2*e.each.width, width), one("down_proj", width, e.each.width)
	if b.err != nil {
		return nil
	}
	all := make([]boundMLP, e.n)
	for i := range all {
		all[i] = boundMLP{mlp: e.each, gateUp: &gateUp[i], down: &down[i]}
	}
	return all
}
