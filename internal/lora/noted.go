package lora

import (
	"encoding/json"
	"fmt"
)

// Note is what of a tensor's figures was found out as it was read, for a run that goes on when the tensor is written; nil if there is
// none. See convert.Figures.
func (m *Merge) Note(tensor string) json.RawMessage {
	v := m.reader(tensor)
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var s sums
	s.add(v.sums)
	raw, err := json.Marshal([]float64{float64(s.n), s.ww, s.dd, s.dr, s.ee, s.up})
	if err != nil { // what is not finite has ended the run
		return nil
	}
	return raw
}

// Restore takes back what Note has given.
func (m *Merge) Restore(tensor string, noted json.RawMessage) error {
	v := m.reader(tensor)
	var f []float64
	if err := json.Unmarshal(noted, &f); err != nil {
		return err
	}
	if v == nil || len(f) != 6 || int64(f[0]) != v.end && f[0] != 0 {
		return fmt.Errorf("expected 6 sums over a tensor with an update, found %.60s", noted)
	}
	v.noted = &sums{n: int64(f[0]), ww: f[1], dd: f[2], dr: f[3], ee: f[4], up: f[5]}
	return nil
}

// reader are the values of a tensor that has an update; nil if it has none.
func (m *Merge) reader(tensor string) *merged {
	if v := m.named[tensor]; v != nil && v.updated() {
		return v
	}
	return nil
}
