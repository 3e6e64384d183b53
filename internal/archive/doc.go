// Package archive is a checkpoint in one file: a tar archive (POSIX.1-2001) of frames of Zstandard (RFC 8878), with the table of zstd's
// seekable format behind them. tar --zstd reads it from first to last; this package reads ranges of it, and decompresses no more than
// the frames in which they lie.
//
// What is read may come from anyone. Every size is held against that of the file before anything is made of it; a frame gives the
// bytes that the table says or an error; names that lead out of a directory, that systems take for the same, links and devices are refused.
package archive
