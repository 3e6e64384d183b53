package checkpoint

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// A journal is a directory in the staging directory, in which every attempt has a file of its own: an attempt that was
// killed leaves a last line that may be torn, and nobody writes behind it. A line is a checksum, a space, what was
// recorded (JSON, so without a line break) and a line break. The checksum is CRC-32C in eight hexadecimal digits, of the
// record.
const (
	journalExt = ".jsonl"
	lockExt    = ".lock"
	crcDigits  = 8
)

// MaxJournal bounds a file of a journal. A record of 524,288 tensors, as many as a file of weights may have, is of some 100 MB.
const MaxJournal = 256 << 20

// MaxAttempts bounds the files of a journal.
const MaxAttempts = 100_000

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Damage is lines of a journal that do not bear their checksums.
type Damage struct {
	File  string
	Lines int
	Torn  bool // one of them is the last, which a killed run had not finished
}

// Record appends a record to the journal, after what it is about is on the disk: every file that was closed before, and
// their names. When it returns the record is on the disk too. It may be called from several goroutines.
func (o *Output) Record(record []byte) error {
	if bytes.IndexByte(record, '\n') >= 0 {
		panic("checkpoint: a record of several lines")
	}
	if err := syncDir(o.staging); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.journal == nil
	if first {
		if err := o.root.MkdirAll(journalDir, 0o777); err != nil {
			return fmt.Errorf("record: %w", err)
		}
		name := path.Join(journalDir, path.Base(o.attempt)+journalExt)
		f, err := o.root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		o.journal = f
	}
	line := fmt.Appendf(make([]byte, 0, len(record)+crcDigits+2), "%08x ", crc32.Checksum(record, castagnoli))
	if _, err := o.journal.Write(append(append(line, record...), '\n')); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if err := o.journal.Sync(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if first {
		for _, dir := range []string{filepath.Join(o.staging, journalDir), o.staging, filepath.Dir(o.staging)} {
			if err := syncDir(dir); err != nil {
				return fmt.Errorf("record: %w", err)
			}
		}
	}
	return nil
}

// Recorded hands over the records of all attempts, in the order of their files' names and then of their lines, and says
// what could not be read. It reads no more than a line at a time.
func (o *Output) Recorded(take func(record []byte) error) ([]Damage, error) {
	return readJournal(o.staging, take)
}

// Recorded is the journal in the staging directory of the destination dst, without a lock; no record if there is none.
func Recorded(dst string, take func(record []byte) error) ([]Damage, error) {
	dir, err := resolveDestination(dst)
	if err != nil {
		return nil, err
	}
	if parked := beside(dir, journalSuffix); isDir(parked) {
		return readJournalDir(parked, take)
	}
	return readJournal(beside(dir, stagingSuffix), take)
}

func readJournal(staging string, take func(record []byte) error) ([]Damage, error) {
	return readJournalDir(filepath.Join(staging, journalDir), take)
}

func readJournalDir(dir string, take func(record []byte) error) (damaged []Damage, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	if len(entries) > MaxAttempts {
		return nil, &OutputError{Path: dir, Reason: fmt.Sprintf("expected at most %d files, found %d", MaxAttempts, len(entries))}
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), journalExt) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		d, err := readJournalFile(name, take)
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		if d.Lines > 0 {
			d.File = name
			damaged = append(damaged, d)
		}
	}
	return damaged, nil
}

func readJournalFile(name string, take func(record []byte) error) (Damage, error) {
	f, err := OpenRegular(name)
	if err != nil {
		return Damage{}, err
	}
	defer f.Close()
	return scanJournal(io.LimitReader(f, MaxJournal), take)
}

// scanJournal reads lines. What lies beyond a limit of r is a torn line.
func scanJournal(r io.Reader, take func(record []byte) error) (d Damage, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return d, err
		}
		if record, ok := checkLine(line); ok {
			if err := take(record); err != nil {
				return d, err
			}
		} else if len(line) > 0 {
			d.Lines++
			d.Torn = err == io.EOF
		}
		if err == io.EOF {
			return d, nil
		}
	}
}

// checkLine is the record of a line, if it is whole.
func checkLine(line []byte) ([]byte, bool) {
	body, ok := bytes.CutSuffix(line, []byte{'\n'})
	if !ok || len(body) <= crcDigits || body[crcDigits] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(body[:crcDigits]), 16, 32)
	record := body[crcDigits+1:]
	return record, err == nil && uint32(sum) == crc32.Checksum(record, castagnoli)
}

// parkJournal takes the journal out of the staging directory, before that becomes the destination. It stays beside it until
// then, so that a run that dies in between has lost nothing.
func (o *Output) parkJournal() error {
	if o.journal != nil {
		err := o.journal.Close()
		o.journal = nil
		if err != nil {
			return err
		}
	}
	if !isDir(filepath.Join(o.staging, journalDir)) {
		return nil
	}
	if err := os.Rename(filepath.Join(o.staging, journalDir), beside(o.dir, journalSuffix)); err != nil {
		return err
	}
	return errors.Join(syncDir(o.staging), syncDir(filepath.Dir(o.staging)))
}

// recoverJournal puts back what parkJournal has taken out, where no destination has come of it, and else removes it.
func recoverJournal(dir string) error {
	parked := beside(dir, journalSuffix)
	if !isDir(parked) {
		return nil
	}
	if staging := beside(dir, stagingSuffix); isDir(staging) && !isDir(filepath.Join(staging, journalDir)) {
		if err := os.Rename(parked, filepath.Join(staging, journalDir)); err != nil {
			return fmt.Errorf("restore the journal of an interrupted run: %w", err)
		}
		return nil
	}
	if err := os.RemoveAll(parked); err != nil {
		return fmt.Errorf("remove the journal of a run that has ended: %w", err)
	}
	return nil
}
