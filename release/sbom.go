package main

import (
	"debug/buildinfo"
	"fmt"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// sbom writes which modules are linked into a program, as the program itself records them, in CycloneDX's JSON.
func (r *release) sbom(b binary) error {
	info, err := buildinfo.ReadFile(b.path)
	if err != nil {
		return err
	}
	component := func(path, version string) cyclonedx.Component {
		url := fmt.Sprintf("pkg:golang/%s@%s", path, version)
		return cyclonedx.Component{BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
	}
	list := []cyclonedx.Component{component("std", info.GoVersion)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		list = append(list, component(m.Path, m.Version))
	}
	bom := cyclonedx.NewBOM()
	main := component(info.Main.Path, "v"+r.version)
	main.Type = cyclonedx.ComponentTypeApplication
	bom.Metadata = &cyclonedx.Metadata{Timestamp: r.date.Format(time.RFC3339), Component: &main}
	bom.Components = &list
	f, err := r.create(fmt.Sprintf("nf4kit_%s_%s_%s.cdx.json", r.version, b.os, b.arch))
	if err != nil {
		return err
	}
	if err := cyclonedx.NewBOMEncoder(f, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
