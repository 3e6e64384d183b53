package checkpoint

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ContentID tells the content of the shard from what it may become, without reading it: Identity, or for a local file what
// a hub's cache calls it by, the SHA-256 of its content, or the time of its last change.
func (sh *Shard) ContentID() (string, error) {
	if id := sh.Identity(); id != "" {
		return id, nil
	}
	path, err := resolve(sh.Path())
	if err != nil {
		return "", fmt.Errorf("identify %s: %w", sh.Name, err)
	}
	if name := filepath.Base(path); filepath.Base(filepath.Dir(path)) == "blobs" && len(name) == hex.EncodedLen(32) {
		if _, err := hex.DecodeString(name); err == nil {
			return "sha256:" + name, nil
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("identify %s: %w", sh.Name, err)
	}
	return "changed " + info.ModTime().UTC().Format(time.RFC3339Nano), nil
}
