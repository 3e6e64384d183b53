package forward

// A model is what config.json describes, in terms of tensor names and numbers.
type model struct {
	vocab, width int
	context      int // positions; 0: no limit is named

	embed      string // table of token embeddings
	embedWidth int    // of its rows
	embedScale float64
	positions  string // table of learned positions, "" if there is none
	skip       int    // rows of it before the first position
	embedNorm  norm
	in, out    linear // between embeddings of another width and the layers

	layers []block

	norm       norm // after the last layer
	head       linear
	tied       bool // the head is the table of embeddings
	logitScale float64
	softcap    float64 // of logits; 0: none
}

// A block is one layer.
//
//	parallel  x + residual*(attnOut(attn(attnIn(x))) + mlpOut(mlp(mlpIn(x))))
//	else      x = x + residual*attnOut(attn(attnIn(x))), and so on with the MLP
//	after     x = attnOut(x + attn(x)), and so on
//
// A norm without a name is none at all; the MLP of a parallel block then has what attention has.
type block struct {
	prefix                         string
	attnIn, attnOut, mlpIn, mlpOut norm
	parallel, after                bool
	residual                       float64
	attn                           attention
	mlp                            mlp
	experts                        *experts // in place of the MLP
}

// A norm is RMSNorm, or LayerNorm where the mean is taken off.
type norm struct {
	name    string // of the module; the tensors are below it
	kind    normKind
	eps     float64
	bias    bool
	perHead bool // a weight for each head
	modules bool // its heads are modules of their own, name.norms.0 and so on
}

type normKind uint8

const (
	rms            normKind = iota
	rmsPlusOne              // the weight is stored less 1
	centred                 // LayerNorm
	centredPlusOne          // likewise stored less 1
	bare                    // LayerNorm without a weight
)

// A linear is a module below the layer.
type linear struct {
	name string
	bias bool
}

type attention struct {
	q, k, v, o     linear
	qkv            linear // in place of the three
	byHead         bool   // qkv has query, key and value of each head together
	heads, kvHeads int
	dim            int
	qNorm, kNorm   norm
	wholeNorm      bool // over all heads at once
	rope           *rope
	rotated        int  // of the elements of a head, the first; 0: none
	interleaved    bool // pairs are neighbours, not halves
	window         int  // a token sees so many, itself included; 0: all before it
	scale          float64
	softcap        float64
	clip           float64 // bound of queries, keys and values; 0: none
	sinks          string  // logits of a token that is nowhere, by head
}

type mlp struct {
	gate, up, down linear
	gateUp         linear // in place of gate and up
	act            string
	width          int
}

// experts are MLPs that tokens are routed to.
type experts struct {
	router     linear
	n, topK    int
	scores     scoring
	correction string // bias that experts are chosen by, and not weighed by
	groups     int    // of experts; topGroups of them are chosen first
	topGroups  int
	normalize  bool // the weights of the chosen ones are divided by their sum
	scale      float64

	each   mlp    // names hold %d for the number of the expert
	stacks string // module whose gate_up_proj and down_proj hold all of them
	across bool   // of a stack [experts, in, out]
	bias   bool   // stacks have gate_up_proj_bias and down_proj_bias
	// gate and up are neighbours, gate is at most limit and up from -limit to limit: gate * sigmoid(alpha*gate) * (up + 1)
	clamped      bool
	alpha, limit float64

	shared     *mlp
	sharedGate string // of a Linear of one output; "" if there is none
}

type scoring uint8

const (
	softmaxAll scoring = iota // over all experts, then the best are chosen
	softmaxTop                // over the chosen
	sigmoids
)
