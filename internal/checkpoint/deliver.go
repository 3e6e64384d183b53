package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// A Store takes the files of an Output whose destination is in no directory of this machine. Its methods may be called from
// several goroutines.
type Store interface {
	fmt.Stringer // s3://bucket/folder
	// List returns what lies below it, by name.
	List() (map[string]Stored, error)
	// Put stores size bytes of r as the file rel, makes sure that they have arrived, and returns what List says of it.
	Put(rel string, r io.ReaderAt, size int64) (Stored, error)
	// Remove removes a file. One that is not there is no error.
	Remove(rel string) error
}

// Stored is a file in a Store.
type Stored struct {
	Size int64  `json:"size"`
	ID   string `json:"id"` // tells one content from another
}

// A delivery is what an Output knows of the store that it is for.
type delivery struct {
	to Store

	opening sync.Once
	opened  bool  // it is marked
	failed  error // of opening

	mu   sync.Mutex
	sent map[string]bool // there by now
}

// StoreMark is a file in a store that says that the others are being written there: it comes before them and goes after them.
const StoreMark = ".nf4kit-incomplete"

const storeMarkText = "nf4kit is writing what lies here. It is complete when this file is gone.\n"

// begun reports whether a run to dir has begun and not ended.
func begun(dir string) bool { return isDir(filepath.Join(beside(dir, stagingSuffix), journalDir)) }

// checkStore finds what is wrong with a store as a destination; dir is where its files are staged.
func checkStore(s Store, dir string, opt Options) error {
	for _, src := range opt.Sources {
		a, b := strings.TrimRight(src, "/")+"/", strings.TrimRight(s.String(), "/")+"/"
		if strings.HasPrefix(a, b) || strings.HasPrefix(b, a) {
			return &OutputError{Path: s.String(), Reason: "the same as the source " + src + ", inside it or around it", Hint: "name another folder"}
		}
	}
	files, err := s.List()
	if _, marked := files[StoreMark]; err != nil || len(files) == 0 || marked && begun(dir) {
		return err
	}
	if !opt.Force {
		return &OutputError{Path: s.String(), Reason: fmt.Sprintf("it holds %d files already", len(files)), Hint: "--force removes and replaces them", Err: fs.ErrExist}
	}
	for name := range files {
		if !strings.Contains(name, "/") && ofModel(name) {
			return nil
		}
	}
	return &OutputError{Path: s.String(), Reason: fmt.Sprintf("it holds %d files, and none is of a model in it", len(files)),
		Hint: "--force replaces a model; name a folder of its own for this one", Err: fs.ErrExist}
}

// Delivers reports whether files go to a store as they are finished.
func (o *Output) Delivers() bool { return o.store != nil }

// Delivered is what the store has, by name.
func (o *Output) Delivered() (map[string]Stored, error) { return o.store.to.List() }

// Deliver sends a finished file to the store and removes it here.
func (o *Output) Deliver(rel string) (Stored, error) {
	d := o.store
	if err := o.openStore(); err != nil {
		return Stored{}, err
	}
	f, err := o.OpenFile(rel)
	if err != nil {
		return Stored{}, fmt.Errorf("upload %s: %w", rel, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Stored{}, fmt.Errorf("upload %s: %w", rel, err)
	}
	d.mu.Lock()
	d.sent[rel] = true // from now on it may be there
	d.mu.Unlock()
	got, err := d.to.Put(rel, f, info.Size())
	if err != nil {
		return Stored{}, err
	}
	_ = f.Close() // before it is removed, which Windows asks for
	if err := o.root.Remove(filepath.FromSlash(rel)); err != nil {
		return Stored{}, fmt.Errorf("upload %s: %w", rel, err)
	}
	return got, nil
}

// OpenStore finds out whether the store takes files before there are any. What Force replaces stays until the first is ready.
func (o *Output) OpenStore() error {
	if o.store == nil || o.force {
		return nil
	}
	return o.openStore()
}

// openStore marks the store as one that is being written, and removes what it holds and this output does not, before the first file
// goes there: a loader must not meet new files under an old index. Tasks share what is there, and leave it.
func (o *Output) openStore() error {
	d := o.store
	d.opening.Do(func() {
		if _, d.failed = d.to.Put(StoreMark, strings.NewReader(storeMarkText), int64(len(storeMarkText))); d.failed != nil {
			return
		}
		d.opened = true
		if o.task != "" || !o.force && !o.resumed {
			return
		}
		var files map[string]Stored
		if files, d.failed = d.to.List(); d.failed != nil {
			return
		}
		delete(files, StoreMark)
		for name := range d.sent {
			delete(files, name)
		}
		d.failed = o.remove(files)
	})
	return d.failed
}

// remove removes files of the store: first what loaders begin with.
func (o *Output) remove(files map[string]Stored) error {
	names := slices.SortedFunc(maps.Keys(files), func(a, b string) int { return cmp.Or(cmp.Compare(turn(b), turn(a)), cmp.Compare(a, b)) })
	for _, name := range names {
		if err := o.store.to.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// turn is when a file goes to a store: last of all config.json, from which loaders start.
func turn(rel string) int {
	switch {
	case rel == configName:
		return 3
	case rel == "nf4kit.json":
		return 2
	case strings.HasSuffix(rel, ".index.json"):
		return 1
	}
	return 0
}

// commitStored sends all files that are not in the store yet, and removes what is left here.
func (o *Output) commitStored(ctx context.Context) error {
	names := slices.SortedFunc(maps.Keys(o.files), func(a, b string) int { return cmp.Or(cmp.Compare(turn(a), turn(b)), cmp.Compare(a, b)) })
	for _, rel := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.store.sent[rel] {
			continue
		}
		if _, err := o.Deliver(rel); err != nil {
			return err
		}
	}
	if err := o.store.to.Remove(StoreMark); err != nil {
		return err
	}
	if err := errors.Join(o.closeAll(), os.RemoveAll(o.staging), o.lock.release()); err != nil {
		return fmt.Errorf("%s is complete, but what it was staged in could not be removed: %w", o.Dir(), err)
	}
	return nil
}

// withdraw removes from the store what this run and earlier attempts at the same have sent there, which is all that is marked.
func (o *Output) withdraw() error {
	if o.store == nil || !o.store.opened && !o.resumed {
		return nil
	}
	files, err := o.store.to.List()
	if _, marked := files[StoreMark]; err != nil || !marked {
		return err
	}
	delete(files, StoreMark)
	return errors.Join(o.remove(files), o.store.to.Remove(StoreMark))
}
