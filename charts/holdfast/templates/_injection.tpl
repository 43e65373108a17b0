{{/* Namespaces whose pods are never looked at, in the selector of a policy. Arguments: the root, and the object. */}}
{{- define "holdfast.exclude" -}}
{{- $root := index . 0 -}}
{{- $object := index . 1 -}}
{{- $excluded := concat (list "kube-system" $root.Release.Namespace) $root.Values.injection.excludedNamespaces | uniq -}}
{{- with $object.spec.matchConstraints -}}
{{- range (.namespaceSelector | default dict).matchExpressions -}}
{{- $_ := set . "values" $excluded -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as text. A number of a file of values is a float, which templates write as 2.68435456e+08; JSON does not. */}}
{{- define "holdfast.quantity" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}
