package arch

// A Version is a line of versions of transformers: a column of the table. What the table says of one is in its place of an
// array of NumVersions. A further one is a constant here, the newest first, with its flag, and its columns in the data.
type Version int

// The versions.
const (
	V5 Version = iota // 5.0 and later
	V4                // 4.57
	NumVersions
)

// versionFlags are what stands for the versions in the table.
const versionFlags = "54"

// String is the version as people write it.
func (v Version) String() string { return [NumVersions]string{"5.x", "4.57"}[v] }

// all versions, for what holds in each.
var all = [NumVersions]bool{V5: true, V4: true}

// only is all for one version.
func only[T any](v Version, x T) (out [NumVersions]T) {
	out[v] = x
	return out
}

// versions lists all of them, the newest first.
func versions() [NumVersions]Version {
	var all [NumVersions]Version
	for v := range NumVersions {
		all[v] = v
	}
	return all
}

// each is f of every version.
func each[T any](f func(v Version) T) (out [NumVersions]T) {
	for _, v := range versions() {
		out[v] = f(v)
	}
	return out
}
