package archive

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Memory is what a packed file holds at most of what it has decompressed, in bytes.
const Memory = 64 << 20

// mostHeld bounds the frames that are held, and with them the goroutines that decompress.
const mostHeld = 256

// A reader is what the frames of a file hold, read at any place from several goroutines. Frames are decompressed when they are read, or
// ahead of that by prefetch, and the last ones stay: what goes forward decompresses each once.
type reader struct {
	name  string
	r     io.ReaderAt
	table *table
	dec   *zstd.Decoder
	turns chan struct{} // of frames that are being decompressed ahead
	open  sync.WaitGroup

	mu    sync.Mutex
	freed sync.Cond
	slots int
	held  map[int]*frame
	free  [][]byte
	tick  int64
	done  bool

	decoded int64 // frames, which tests count
}

type frame struct {
	i       int
	data    []byte
	err     error
	ready   chan struct{}
	isReady bool
	readers int
	read    bool  // by somebody
	used    int64 // the tick of the last read, or of its beginning
}

func newReader(name string, r io.ReaderAt, size int64) (*reader, error) {
	t, err := readTable(name, r, size)
	if err != nil {
		return nil, err
	}
	procs := runtime.GOMAXPROCS(0)
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(procs), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: internal error: %w", err)
	}
	f := &reader{name: name, r: r, table: t, dec: dec, turns: make(chan struct{}, procs), held: make(map[int]*frame),
		slots: int(min(mostHeld, Memory/max(t.largest, 1)))}
	f.freed.L = &f.mu
	return f, nil
}

// close waits for what is under way. There is nothing to be read any more.
func (r *reader) close() {
	r.mu.Lock()
	r.done = true
	r.mu.Unlock()
	r.open.Wait()
	r.dec.Close()
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", r.name, off)
	}
	done := 0
	for done < len(p) {
		if off+int64(done) >= r.table.size() {
			return done, io.EOF
		}
		i := r.table.find(off + int64(done))
		f := r.acquire(i)
		<-f.ready
		n := 0
		if f.err == nil {
			n = copy(p[done:], f.data[off+int64(done)-r.table.plain[i]:])
		}
		r.release(f)
		if f.err != nil {
			return done, f.err
		}
		done += n
	}
	return done, nil
}

// acquire returns a frame with one more reader, decompressing it if that has not been done. It waits for a slot with none of its own.
func (r *reader) acquire(i int) *frame {
	r.mu.Lock()
	for {
		if f := r.held[i]; f != nil {
			f.readers++
			r.mu.Unlock()
			return f
		}
		if r.room(false) {
			f := r.start(i)
			f.readers++
			r.mu.Unlock()
			r.decode(f)
			return f
		}
		r.freed.Wait()
	}
}

func (r *reader) release(f *frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	f.readers--
	f.used, f.read = r.tick, true
	if f.readers == 0 {
		if f.err != nil {
			r.remove(f) // the next reader tries again
		}
		r.freed.Broadcast()
	}
}

// prefetch decompresses frames that n bytes at off will be read of, as far as there is room beside what has not been read yet.
func (r *reader) prefetch(off, n int64) {
	end := min(off+n, r.table.size())
	if off < 0 || off >= end {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.table.find(off); i < r.table.frames() && r.table.plain[i] < end; i++ {
		if r.held[i] != nil || r.table.plain[i] == r.table.plain[i+1] {
			continue
		}
		if r.done || len(r.held) >= r.slots-cap(r.turns) && !r.room(true) { // readers without a frame must find room
			return
		}
		f := r.start(i)
		r.open.Go(func() {
			r.turns <- struct{}{}
			r.decode(f)
			<-r.turns
		})
	}
}

// room makes place for a frame: a free slot, or that of the frame read longest ago. Of what is not read yet nothing goes ahead of time. The
// caller holds mu.
func (r *reader) room(ahead bool) bool {
	if len(r.held) < r.slots && !ahead {
		return true
	}
	var oldest *frame
	for _, f := range r.held {
		if !f.isReady || f.readers > 0 || ahead && !f.read {
			continue
		}
		if oldest == nil || f.read && !oldest.read || f.read == oldest.read && f.used < oldest.used {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	r.remove(oldest)
	return true
}

func (r *reader) remove(f *frame) {
	if r.held[f.i] == f {
		delete(r.held, f.i)
		r.free = append(r.free, f.data[:0])
	}
}

// start takes a slot for frame i. The caller holds mu.
func (r *reader) start(i int) *frame {
	var data []byte
	if k := len(r.free); k > 0 {
		data, r.free = r.free[k-1], r.free[:k-1]
	} else {
		data = make([]byte, 0, r.table.largest)
	}
	f := &frame{i: i, data: data, ready: make(chan struct{}), used: r.tick}
	r.held[i] = f
	r.decoded++
	return f
}

func (r *reader) decode(f *frame) {
	f.data, f.err = r.decompress(f.i, f.data)
	r.mu.Lock()
	defer r.mu.Unlock()
	f.isReady = true
	if f.err != nil && f.readers == 0 {
		r.remove(f)
	}
	close(f.ready)
	r.freed.Broadcast()
}

// decompress reads frame i into buf, which has room for it.
func (r *reader) decompress(i int, buf []byte) ([]byte, error) {
	size := r.table.plain[i+1] - r.table.plain[i]
	packed := make([]byte, r.table.packed[i+1]-r.table.packed[i])
	if err := stream.ReadFull(r.r, packed, r.table.packed[i]); err != nil {
		return buf[:0], fmt.Errorf("read %s: frame %d: %w", r.name, i, err)
	}
	out, err := r.dec.DecodeAll(packed, buf[:0:size])
	if err != nil || int64(len(out)) != size {
		return buf[:0], &checkpoint.InputError{File: r.name, Expected: fmt.Sprintf("%d bytes in frame %d, at byte %d of the file", size, i, r.table.packed[i]),
			Found: found(err, len(out)), Hint: truncatedHint, Err: err}
	}
	return buf[:size], nil
}

func found(err error, n int) string {
	if err != nil {
		return "none that can be decompressed"
	}
	return fmt.Sprint(n)
}
