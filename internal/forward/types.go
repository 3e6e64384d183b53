package forward

// missing says what a model type would need that is not here.
func missing(typ string) string { return "there is no description of its blocks" }
