package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// Text of files must not reach a terminal as it is: what prints an argument goes through package escape.
func TestPrintsEscape(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := fun.X.(*ast.Ident)
			if !ok || pkg.Name != "fmt" || !strings.HasPrefix(fun.Sel.Name, "Fprint") && !strings.HasPrefix(fun.Sel.Name, "Print") {
				return true
			}
			calls++
			if to, ok := call.Args[0].(*ast.UnaryExpr); ok && to.Op == token.AND { // a builder
				return true
			}
			for _, a := range call.Args[1:] {
				if lit, ok := a.(*ast.BasicLit); !ok || lit.Kind != token.STRING {
					t.Errorf("%s: fmt.%s of something that is no literal: use escape.Fprintf", set.Position(call.Pos()), fun.Sel.Name)
				}
			}
			return true
		})
	}
	if calls == 0 {
		t.Error("found no call of fmt.Fprint at all")
	}
}
