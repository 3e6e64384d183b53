package standin

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Uploads is what a hub has been sent: the protocol of huggingface_hub's commits, with large files by Git LFS.
type Uploads struct {
	PartSize int // files of more are sent in parts of it; 0: none is

	mu      sync.Mutex
	Created bool
	Files   map[string][]byte // of the last commit
	Objects map[string][]byte // large files, by SHA-256
	parts   map[string][]byte
	Puts    int
}

// post answers what is sent to the hub.
func (h *Hub) post(w http.ResponseWriter, r *http.Request) {
	u := &h.Uploads
	u.mu.Lock()
	defer u.mu.Unlock()
	signed := strings.HasPrefix(r.URL.Path, "/complete/") // huggingface_hub sends no token with it
	if !signed && (h.Token == "" || r.Header.Get("Authorization") != "Bearer "+h.Token) {
		refuse(w, http.StatusUnauthorized, "", "Invalid username or password.")
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch p := r.URL.Path; {
	case p == "/api/repos/create":
		if u.Created {
			refuse(w, http.StatusConflict, "", "You already created this model repo")
			return
		}
		u.Created = true
		reply(w, map[string]string{"url": h.URL + "/" + h.Repo})
	case p == "/api/validate-yaml": // of the front matter of README.md
		reply(w, map[string]any{"errors": []string{}, "warnings": []string{}})
	case !u.Created:
		refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
	case p == "/api/models/"+h.Repo+"/preupload/main":
		var q struct {
			Files []struct{ Path string }
		}
		_ = json.Unmarshal(raw, &q)
		var list []map[string]any
		for _, f := range q.Files {
			list = append(list, map[string]any{"path": f.Path, "uploadMode": map[bool]string{true: "lfs", false: "regular"}[isLFS(f.Path)], "shouldIgnore": false})
		}
		reply(w, map[string]any{"files": list, "commitOid": h.Commit()})
	case p == "/"+h.Repo+".git/info/lfs/objects/batch":
		h.batch(w, raw)
	case strings.HasPrefix(p, "/complete/"):
		h.complete(w, strings.TrimPrefix(p, "/complete/"), raw)
	case p == "/verify":
		var q struct{ OID string }
		if _ = json.Unmarshal(raw, &q); u.Objects[q.OID] == nil {
			http.Error(w, "no such object", http.StatusNotFound)
		}
	case p == "/api/models/"+h.Repo+"/commit/main":
		h.commit(w, raw)
	default:
		http.NotFound(w, r)
	}
}

func (h *Hub) batch(w http.ResponseWriter, raw []byte) {
	var q struct {
		Objects []struct {
			OID  string
			Size int
		}
	}
	if err := json.Unmarshal(raw, &q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	transfer := "basic"
	var list []map[string]any
	for _, o := range q.Objects {
		e := map[string]any{"oid": o.OID, "size": o.Size}
		list = append(list, e)
		if h.Uploads.Objects[o.OID] != nil {
			continue
		}
		up := map[string]any{"href": h.cdn.URL + "/put/" + o.OID + "?Signature=" + fmt.Sprint(h.serial.Add(1))}
		if part := h.Uploads.PartSize; part > 0 && o.Size > part {
			transfer = "multipart"
			header := map[string]string{"chunk_size": strconv.Itoa(part)}
			for n := 1; (n-1)*part < o.Size; n++ {
				header[fmt.Sprintf("%05d", n)] = fmt.Sprintf("%s/put/%s?part=%d", h.cdn.URL, o.OID, n)
			}
			up = map[string]any{"href": h.URL + "/complete/" + o.OID, "header": header}
		}
		e["actions"] = map[string]any{"upload": up, "verify": map[string]any{"href": h.URL + "/verify"}}
	}
	reply(w, map[string]any{"transfer": transfer, "objects": list})
}

// put is the second host's: contents, or a part of them.
func (h *Hub) put(w http.ResponseWriter, r *http.Request) {
	u := &h.Uploads
	raw, err := io.ReadAll(r.Body)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.Puts++; err != nil || h.FaultEach > 0 && u.Puts%h.FaultEach == 0 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	oid := strings.TrimPrefix(r.URL.Path, "/put/")
	if part := r.URL.Query().Get("part"); part != "" {
		u.parts[oid+" "+part] = raw
		w.Header().Set("ETag", fmt.Sprintf("%q", part))
		return
	}
	h.store(w, oid, raw)
}

func (h *Hub) complete(w http.ResponseWriter, oid string, raw []byte) {
	var q struct {
		Parts []struct {
			PartNumber int
			ETag       string
		}
	}
	_ = json.Unmarshal(raw, &q)
	var b bytes.Buffer
	for i, p := range q.Parts {
		if p.PartNumber != i+1 || p.ETag != fmt.Sprintf("%q", strconv.Itoa(i+1)) {
			http.Error(w, "parts out of order", http.StatusBadRequest)
			return
		}
		b.Write(h.Uploads.parts[fmt.Sprintf("%s %d", oid, i+1)])
	}
	h.store(w, oid, b.Bytes())
}

func (h *Hub) store(w http.ResponseWriter, oid string, raw []byte) {
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != oid {
		http.Error(w, "other contents", http.StatusBadRequest)
		return
	}
	h.Uploads.Objects[oid] = raw
}

func (h *Hub) commit(w http.ResponseWriter, raw []byte) {
	files := map[string][]byte{}
	for d := json.NewDecoder(bytes.NewReader(raw)); d.More(); {
		var line struct {
			Key   string
			Value struct{ Path, Content, OID, Encoding string }
		}
		if err := d.Decode(&line); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		switch line.Key {
		case "file":
			files[line.Value.Path], _ = base64.StdEncoding.DecodeString(line.Value.Content)
		case "lfsFile":
			if files[line.Value.Path] = h.Uploads.Objects[line.Value.OID]; files[line.Value.Path] == nil {
				http.Error(w, "no such object", http.StatusBadRequest)
				return
			}
		}
	}
	h.Uploads.Files = files
	reply(w, map[string]any{"success": true, "commitOid": h.Commit(), "commitUrl": h.URL + "/" + h.Repo + "/commit/" + h.Commit()})
}
