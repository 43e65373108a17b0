//go:build tools

// Package helm keeps the requirements of Helm. It is never compiled: the import is here so that
// `go mod tidy` leaves go.mod and go.sum whole.
package helm

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
