package weights

import "strings"

// Kinds names the kind of module of each of the weights: the last component of the module where that is unmistakable among
// them, else its path below the layer number.
func Kinds(weights []string) []string {
	kinds := make([]string, len(weights))
	byLeaf := map[string]map[string]bool{}
	leaf := func(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
	for i, name := range weights {
		kinds[i] = kindPath(name)
		if l := leaf(kinds[i]); byLeaf[l] == nil {
			byLeaf[l] = map[string]bool{}
		}
		byLeaf[leaf(kinds[i])][kinds[i]] = true
	}
	for i, path := range kinds {
		if l := leaf(path); len(byLeaf[l]) == 1 && l != "#" {
			kinds[i] = l
		}
	}
	return kinds
}

// kindPath is a module's path below the first number in it, other numbers as '#'.
func kindPath(name string) string {
	parts := strings.Split(strings.TrimSuffix(name, ".weight"), ".")
	from := 0
	for i, c := range parts {
		if isNumber(c) {
			if from == 0 {
				from = i + 1
			}
			parts[i] = "#"
		}
	}
	if from == 0 || from == len(parts) {
		return strings.Join(parts, ".")
	}
	return strings.Join(parts[from:], ".")
}

func isNumber(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
