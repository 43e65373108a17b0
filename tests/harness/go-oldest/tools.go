//go:build tools

// Package oldest keeps the requirements of the program that the tests build. It is never compiled: the
// import is here so that `go mod tidy` leaves go.mod and go.sum whole.
package oldest

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
