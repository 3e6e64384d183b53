package convert

import "fmt"

// A ResumeError says why what an earlier run has left cannot be continued.
type ResumeError struct {
	Staging  string
	Files    int
	Reason   string
	Consumed string // the source, where files of it are used up: what was made of them is in Staging alone
}

func (e *ResumeError) Error() string {
	return fmt.Sprintf("%s holds %d finished weights files of another run: %s", e.Staging, e.Files, e.Reason)
}

// Hint says what to do next.
func (e *ResumeError) Hint() string {
	if e.Consumed != "" {
		return "go on with the arguments of then, since files of " + e.Consumed + " are used up; " + fetchAgain
	}
	return "go on with the arguments of then, or begin anew: --restart, without --task, drops what is there"
}

// fetchAgain is how to begin anew what has used up a part of its source.
const fetchAgain = "to begin anew, fetch those that have left a .nf4kit-consumed again, and say --restart"

// An UnfinishedError is an error that has left finished weights files for the next run.
type UnfinishedError struct {
	Dst       string
	Staging   string
	Files, Of int
	Task      Task
	Consumed  bool // files of the source are used up, so that nothing begins anew without them
	Err       error
}

func (e *UnfinishedError) Error() string { return e.Err.Error() }
func (e *UnfinishedError) Unwrap() error { return e.Err }

// Kept says what there is.
func (e *UnfinishedError) Kept() string {
	return fmt.Sprintf("%d of %d weights files are finished and kept in %s", e.Files, e.Of, e.Staging)
}

// Hint says what to do next.
func (e *UnfinishedError) Hint() string {
	if e.Consumed {
		return e.Kept() + ": the same command goes on from there; what SRC had for them is used up"
	}
	return e.Kept() + ": the same command goes on from there, --restart begins anew"
}
