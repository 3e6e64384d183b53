package lora

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// WeightsName is the file that PEFT writes the tensors of an adapter to.
const WeightsName = "adapter_model.safetensors"

// diffusersName is the one of diffusers.
const diffusersName = "pytorch_lora_weights.safetensors"

// An Adapter is an opened one. Its tensors may be read from several goroutines.
type Adapter struct {
	Path    string
	Config  *Config
	Modules []*Module // by path
	Saved   []Saved   // by name
	Params  int64     // elements of all tensors
	Bytes   int64
	Notes   []string // what a user should know

	file *safetensors.File
}

// A Module is one low-rank update, or the trained rows of an embedding.
type Module struct {
	Path      string // as PEFT has it, without base_model.model.
	A, B      *safetensors.Tensor
	Bias      *safetensors.Tensor // of lora_B, with lora_bias; nil without
	Magnitude *safetensors.Tensor // of DoRA; nil without
	Tokens    *safetensors.Tensor // rows; A and B are nil
	IDs       []int64             // of Tokens
	Embedding bool                // A is [r, V] and B [D, r]

	alpha *safetensors.Tensor // that the file itself has; nil where the config decides
	own   float64             // its value
}

// A Saved is a tensor that replaces the base's of that name.
type Saved struct {
	Name   string // in memory, as PEFT has it
	Tensor *safetensors.Tensor
}

// Rank is the first dimension of A: r, or r times the number of experts; 0 for trained rows.
func (m *Module) Rank() int64 {
	if m.A == nil {
		return 0
	}
	return m.A.Shape[0]
}

// Alpha is the module's lora_alpha: name is the one that patterns are compared with, the path, or path.parameter.
func (a *Adapter) Alpha(m *Module, name string) float64 {
	if m.alpha != nil {
		return m.own
	}
	if a.Config == nil {
		return float64(m.Rank())
	}
	if v, ok := a.Config.Alphas.Lookup(name); ok {
		return v
	}
	return a.Config.Alpha
}

// Scaling is what B@A is multiplied with, for rank r: computed in float64 and rounded once (tuners/lora/layer.py, update_layer).
func (a *Adapter) Scaling(m *Module, name string, r int64) float32 {
	return float32(a.scaling(m, name, r))
}

func (a *Adapter) scaling(m *Module, name string, r int64) float64 {
	alpha := a.Alpha(m, name)
	if a.Config != nil && a.Config.RSLoRA {
		return alpha / math.Sqrt(float64(r))
	}
	return alpha / float64(r)
}

// IsFactor reports whether a tensor of this name is one of an adapter's.
func IsFactor(name string) bool {
	k := parseKey(name)
	return k.role != roleSaved && k.role != roleAlpha
}

// elsewhere are names of what a hub or a server may have.
var elsewhere = regexp.MustCompile(`^([a-z0-9]+://|[\w-][\w.-]*/[\w-][\w.-]*$)`)

// Open opens an adapter: a directory or a safetensors file, with adapter_config.json beside it. It reads headers alone, and the
// scalars of files that have their own alphas. Errors of content are [*Error], [*checkpoint.InputError] and those of safetensors.
func Open(path string) (*Adapter, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && elsewhere.MatchString(path) {
		return nil, fmt.Errorf("open adapter: %w: adapters are read from this machine (hf download ORG/NAME --local-dir DIR)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open adapter: %w", err)
	}
	file, dir := path, filepath.Dir(path)
	if info.IsDir() {
		dir = path
		if file, err = weightsOf(path); err != nil {
			return nil, err
		}
	} else if pickled(path) {
		return nil, pickleError(path)
	}
	a := &Adapter{Path: path}
	configPath := filepath.Join(dir, ConfigName)
	switch raw, err := checkpoint.ReadRegular(configPath, checkpoint.MaxConfigSize); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if a.Config, err = ParseConfig(configPath, raw); err != nil {
			return nil, err
		}
	}
	probe, err := checkpoint.OpenRegular(file) // refuses a pipe before it is waited for
	if err != nil {
		return nil, err
	}
	probe.Close()
	if a.file, err = safetensors.Open(file); err != nil {
		return nil, err
	}
	if err := a.sort(file); err != nil {
		a.file.Close()
		return nil, err
	}
	return a, nil
}

// Close closes the file.
func (a *Adapter) Close() error { return a.file.Close() }

func pickled(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".bin", ".pt", ".pth", ".ckpt", ".pkl":
		return true
	}
	return false
}

func pickleError(path string) error {
	return &Error{Path: path, Expect: "an adapter in safetensors", Found: "a pickled one, which can run code of its own",
		Hint: "save it with PEFT's save_pretrained(dir, safe_serialization=True)"}
}

// weightsOf finds the tensors of a directory.
func weightsOf(dir string) (string, error) {
	for _, name := range []string{WeightsName, diffusersName} {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	p := filepath.Join(dir, "adapter_model.bin")
	if _, err := os.Stat(p); err == nil {
		return "", pickleError(p)
	}
	return "", &Error{Path: dir, Expect: WeightsName, Found: "none", Hint: "give the directory that PEFT's save_pretrained wrote, or a safetensors file"}
}

// wrapped is what is in the names of the biases of modules_to_save that bias="all" has PEFT save beside those modules: what they were before
// training, and the trained ones again.
var wrapped = regexp.MustCompile(`\.(modules_to_save|original_module)\.`)

// sort takes the names of the tensors apart and puts modules together.
func (a *Adapter) sort(file string) error {
	byPath := map[string]*Module{}
	var named string
	has := map[string]bool{}
	for _, t := range a.file.Tensors() {
		has[t.Name] = true
	}
	for _, t := range a.file.Tensors() {
		if plain := wrapped.ReplaceAllString(t.Name, "."); plain != t.Name && has[plain] || strings.Contains(t.Name, ".lora_velora_embed") {
			continue // VeLoRA's is of use in training alone
		}
		a.Params += t.Elems()
		a.Bytes += t.Size()
		k := parseKey(t.Name)
		if k.name != "" {
			if named != "" && named != k.name {
				return &Error{Path: file, Key: t.Name, Expect: "one adapter", Found: fmt.Sprintf("two, %q and %q", clip(named), clip(k.name)),
					Hint: "save each of them with PEFT's save_pretrained"}
			}
			named = k.name
		}
		if _, ok := weights.ElemOf(t.DType); !ok {
			return &Error{Path: file, Key: t.Name, Expect: "floats", Found: t.DType.String()}
		}
		if k.role == roleSaved {
			a.Saved = append(a.Saved, Saved{k.module, t})
			continue
		}
		m := byPath[k.module]
		if m == nil {
			m = &Module{Path: k.module}
			byPath[k.module] = m
			a.Modules = append(a.Modules, m)
		}
		place := m.place(k.role)
		if *place != nil {
			return &Error{Path: file, Key: t.Name, Expect: "each factor once", Found: "it twice, under two spellings: " + (*place).Name}
		}
		*place = t
	}
	slices.SortFunc(a.Modules, func(x, y *Module) int { return strings.Compare(x.Path, y.Path) })
	slices.SortFunc(a.Saved, func(x, y Saved) int { return strings.Compare(x.Name, y.Name) })
	if len(a.Modules) == 0 {
		return &Error{Path: file, Expect: "tensors of an adapter, such as lora_A and lora_B", Found: "none",
			Hint: "nf4kit inspect says what is in a model"}
	}
	for _, m := range a.Modules {
		if err := a.checkModule(file, m); err != nil {
			return err
		}
	}
	for i := 1; i < len(a.Saved); i++ {
		if a.Saved[i].Name == a.Saved[i-1].Name {
			return &Error{Path: file, Key: a.Saved[i].Tensor.Name, Expect: "each tensor once", Found: "it twice, under two spellings"}
		}
	}
	if a.Config == nil {
		a.Notes = append(a.Notes, "no "+ConfigName+": alpha is what the file says for a module, else its rank")
	} else if len(a.Config.Unknown) > 0 {
		a.Notes = append(a.Notes, "unknown keys of "+ConfigName+" are left out, as PEFT does: "+strings.Join(a.Config.Unknown, ", "))
	}
	return nil
}

func (m *Module) place(r role) **safetensors.Tensor {
	switch r {
	case roleA:
		return &m.A
	case roleEmbA:
		m.Embedding = true
		return &m.A
	case roleEmbB:
		m.Embedding = true
		return &m.B
	case roleB:
		return &m.B
	case roleBias:
		return &m.Bias
	case roleMagnitude:
		return &m.Magnitude
	case roleAlpha:
		return &m.alpha
	}
	return &m.Tokens
}

// checkModule holds the tensors of a module to each other.
func (a *Adapter) checkModule(file string, m *Module) error {
	bad := func(t *safetensors.Tensor, expect string, args ...any) error {
		e := &Error{Path: file, Key: m.Path, Expect: fmt.Sprintf(expect, args...), Found: "none"}
		if t != nil {
			e.Key, e.Found = t.Name, fmt.Sprintf("shape %v", t.Shape)
		}
		return e
	}
	if m.Tokens != nil {
		return a.checkTokens(file, m)
	}
	switch {
	case m.A == nil:
		return bad(nil, "lora_A beside lora_B")
	case m.B == nil:
		return bad(nil, "lora_B beside lora_A")
	case len(m.A.Shape) < 2 || len(m.A.Shape) > 5 || slices.Contains(m.A.Shape, 0):
		e := bad(m.A, "[rank, in], with the kernel's dimensions for a convolution").(*Error)
		e.Hint = "an empty or flat factor is what is left where sharded weights were not gathered before saving"
		return e
	case len(m.B.Shape) < 2 || len(m.B.Shape) > 5 || slices.Contains(m.B.Shape, 0):
		return bad(m.B, "[out, rank]")
	case m.A.Shape[0] != m.B.Shape[1] && m.B.Elems() != m.B.Shape[0]*m.A.Shape[0]:
		return bad(m.B, "[out, %d], as %s has %d rows", m.A.Shape[0], m.A.Name, m.A.Shape[0])
	case m.B.Elems() != m.B.Shape[0]*m.A.Shape[0]:
		return bad(m.B, "[out, %d], and no kernel larger than 1", m.A.Shape[0])
	case m.Rank() > MaxRank*maxExperts:
		return bad(m.A, "a rank of at most %d", MaxRank)
	case m.Bias != nil && (len(m.Bias.Shape) != 1 || m.Bias.Shape[0] != m.B.Shape[0]):
		return bad(m.Bias, "[%d]", m.B.Shape[0])
	case m.Magnitude != nil && m.Magnitude.Elems() != m.B.Shape[0]:
		return bad(m.Magnitude, "[%d]", m.B.Shape[0])
	case a.Config != nil && a.Config.DoRA && m.Magnitude == nil:
		return &Error{Path: file, Key: m.Path, Expect: "lora_magnitude_vector, as use_dora says", Found: "none"}
	}
	if m.alpha != nil {
		v, err := readFloats(m.alpha)
		if err != nil {
			return err
		}
		if len(v) != 1 || !validAlpha(float64(v[0])) {
			return bad(m.alpha, "one number above 0")
		}
		m.own = float64(v[0])
	}
	return nil
}

// maxExperts bounds the experts of one parameter.
const maxExperts = 4096

func (a *Adapter) checkTokens(file string, m *Module) error {
	e := &Error{Path: file, Key: m.Tokens.Name}
	switch {
	case m.A != nil || m.B != nil:
		e.Expect, e.Found = "trained rows or a low-rank update of a module", "both"
		return e
	case a.Config == nil || len(a.Config.Tokens) == 0:
		e.Expect, e.Found = "trainable_token_indices in "+ConfigName, "none, so that nobody knows which rows these are"
		return e
	}
	m.Embedding = true
	for _, t := range a.Config.Tokens {
		if t.Module == "" || m.Path == t.Module || strings.HasSuffix(m.Path, "."+t.Module) {
			m.IDs = t.IDs
		}
	}
	if len(m.Tokens.Shape) != 2 || m.Tokens.Shape[0] != int64(len(m.IDs)) {
		e.Expect, e.Found = fmt.Sprintf("[%d, width], for the ids of trainable_token_indices", len(m.IDs)), fmt.Sprintf("shape %v", m.Tokens.Shape)
		return e
	}
	return nil
}

// CheckFinite reads every tensor and refuses a NaN or an infinity.
func (a *Adapter) CheckFinite() error {
	buf := make([]byte, 1<<20)
	for _, t := range a.file.Tensors() {
		e, _ := weights.ElemOf(t.DType)
		for at := int64(0); at < t.Size(); {
			n := min(int64(len(buf)), t.Size()-at)
			if err := stream.ReadFull(t, buf[:n], at); err != nil {
				return err
			}
			if i := kernel.FirstNonFinite(e, buf, int(n)/e.Size()); i >= 0 {
				return &Error{Path: a.file.Name(), Key: t.Name, Expect: "finite numbers",
					Found: fmt.Sprintf("%v at element %d", weights.ValueAt(buf, e, i), at/int64(e.Size())+int64(i)),
					Hint:  "the training run diverged: take an earlier checkpoint of the adapter"}
			}
			at += n
		}
	}
	return nil
}

// Identity is the adapter's name and the BLAKE3 digest of its tensors' file: what a record of a merge says.
func (a *Adapter) Identity() (string, error) {
	f, err := checkpoint.OpenRegular(a.file.Name())
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := blake3.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", a.file.Name(), err)
	}
	return fmt.Sprintf("%s blake3:%x", filepath.Base(a.Path), h.Sum(nil)), nil
}
