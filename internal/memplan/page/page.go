package page

import _ "embed"

//go:embed formula.js
var formulaJS string
