package checkpoint

// ReadAt reads back what has been written to the file, header included: off counts from the beginning of the file. It
// may be called from several goroutines, for ranges whose WriteAt has returned.
func (s *ShardWriter) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off) }
