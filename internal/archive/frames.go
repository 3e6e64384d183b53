package archive

import (
	"context"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frameSize is what a frame holds of a file: what is read of a tensor at once, and enough for compression, which takes no more from larger
// ones.
const frameSize = 1 << 20

// A frameWriter writes frames that are compressed side by side, in their order, and after them the seek table. It holds a bounded number.
type frameWriter struct {
	ctx    context.Context
	enc    *zstd.Encoder
	queue  chan *packing
	free   chan []byte
	ended  chan struct{}
	failed chan struct{}
	once   sync.Once
	err    error // of writing, once failed is closed

	sizes []uint32 // of frames, compressed and decompressed in turn
	n     int64    // bytes written
}

type packing struct {
	plain, packed []byte
	ready         chan struct{}
}

// newFrameWriter writes to w. The settings are those of what a checkpoint holds: no text to be found again, but bytes of which some are
// rarer than others.
func newFrameWriter(ctx context.Context, w io.Writer, jobs int) (*frameWriter, error) {
	if jobs == 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true), zstd.WithEncoderConcurrency(jobs),
		zstd.WithWindowSize(frameSize), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	f := &frameWriter{ctx: ctx, enc: enc, queue: make(chan *packing, jobs), free: make(chan []byte, jobs+2), ended: make(chan struct{}), failed: make(chan struct{})}
	go f.write(w)
	return f, nil
}

// buffer is one of frameSize bytes and some more, to be given to add.
func (f *frameWriter) buffer() []byte {
	select {
	case b := <-f.free:
		return b[:0]
	default:
		return make([]byte, 0, frameSize+blockSize)
	}
}

// add compresses a frame, and keeps plain.
func (f *frameWriter) add(plain []byte) error {
	p := &packing{plain: plain, ready: make(chan struct{})}
	select {
	case f.queue <- p:
	case <-f.failed:
		return f.err
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
	go func() {
		p.packed = f.enc.EncodeAll(p.plain, nil)
		close(p.ready)
	}()
	return nil
}

func (f *frameWriter) write(w io.Writer) {
	defer close(f.ended)
	for p := range f.queue {
		<-p.ready
		if f.err != nil {
			continue // what is still in the queue
		}
		n, err := w.Write(p.packed)
		f.n += int64(n)
		if err != nil {
			f.err = err
			close(f.failed)
			continue
		}
		f.sizes = append(f.sizes, uint32(len(p.packed)), uint32(len(p.plain)))
		if cap(p.plain) < frameSize+blockSize {
			continue // a header
		}
		select {
		case f.free <- p.plain:
		default:
		}
	}
	if f.err != nil {
		return
	}
	n, err := w.Write(appendTable(nil, f.sizes))
	f.n += int64(n)
	f.err = err
}

// close waits until everything is written, or has failed. It may be called again.
func (f *frameWriter) close() error {
	f.once.Do(func() { close(f.queue) })
	<-f.ended
	return f.err
}
