{{/*
Objects of the folder files/. They are plain manifests, as tests and people apply them, for a release `holdfast` in the
namespace holdfast-system: one place says what the operator may do. Here they get the names of this release.
*/}}

{{/* What a name of the files is called in this release. Arguments: the root, and the name. */}}
{{- define "holdfast.renamed" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if hasPrefix "holdfast-" $name -}}
{{- printf "%s-%s" (include "holdfast.fullname" $root) (trimPrefix "holdfast-" $name) -}}
{{- else if eq "holdfast" $name -}}
{{- include "holdfast.fullname" $root -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/*
The objects of a file as a list, in the key `items` of YAML. Arguments, as a dict:
  root       the root
  file       its path
  namespace  where namespaced objects go that name no namespace; without: the release's
*/}}
{{- define "holdfast.objects" -}}
{{- $root := .root -}}
{{- $file := .file -}}
{{- $account := printf "system:serviceaccount:%s:%s" $root.Release.Namespace (include "holdfast.operatorAccount" $root) -}}
{{- $text := $root.Files.Get $file | required (printf "the chart has no file %s" $file) -}}
{{- /* Names inside expressions; everything else is renamed where it stands. */ -}}
{{- $text = $text | replace "'system:serviceaccount:holdfast-system:holdfast-operator'" (squote $account) -}}
{{- $text = $text | replace "'holdfast-system'" (squote $root.Release.Namespace) -}}
{{- $text = $text | replace "'holdfast-webhook-certificate'" (squote (include "holdfast.certificates" $root)) -}}
{{- $items := list -}}
{{- range regexSplit "(?m)^---\\s*$" $text -1 -}}
{{- $object := fromYaml . -}}
{{- if $object.Error }}{{ fail (printf "%s: %s" $file $object.Error) }}{{ end -}}
{{- if $object.kind -}}
{{- $metadata := $object.metadata -}}
{{- $_ := set $metadata "name" (include "holdfast.renamed" (list $root $metadata.name)) -}}
{{- if $metadata.namespace -}}
{{- $_ := set $metadata "namespace" $root.Release.Namespace -}}
{{- else if $.namespace -}}
{{- $_ := set $metadata "namespace" $.namespace -}}
{{- end -}}
{{- $component := index ($metadata.labels | default dict) "app.kubernetes.io/component" | default "users" -}}
{{- $labels := include "holdfast.labels" (list $root $component) | fromYaml -}}
{{- $_ := set $metadata "labels" (merge (dict) $labels ($metadata.labels | default dict)) -}}
{{- with $root.Values.commonAnnotations -}}
{{- $_ := set $metadata "annotations" (merge (dict) ($metadata.annotations | default dict) .) -}}
{{- end -}}
{{- with $object.roleRef -}}
{{- $_ := set . "name" (include "holdfast.renamed" (list $root .name)) -}}
{{- end -}}
{{- range $object.subjects -}}
{{- if eq .name "holdfast-operator" -}}
{{- $_ := set . "name" (include "holdfast.operatorAccount" $root) -}}
{{- end -}}
{{- $_ := set . "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- range $object.rules -}}
{{- $rule := . -}}
{{- $named := list -}}
{{- range .resourceNames -}}
{{- $named = append $named (ternary (include "holdfast.renamed" (list $root .)) . (or (has "secrets" $rule.resources) (has "mutatingwebhookconfigurations" $rule.resources))) -}}
{{- end -}}
{{- if $named }}{{ $_ := set . "resourceNames" $named }}{{ end -}}
{{- end -}}
{{- if and $object.spec $object.spec.policyName -}}
{{- $_ := set $object.spec "policyName" (include "holdfast.renamed" (list $root $object.spec.policyName)) -}}
{{- end -}}
{{- with ($object.spec | default dict).paramRef -}}
{{- if .name -}}
{{- $_ := set . "name" (include "holdfast.renamed" (list $root .name)) -}}
{{- $_ := set . "namespace" $root.Release.Namespace -}}
{{- end -}}
{{- end -}}
{{- $items = append $items $object -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "items" $items) -}}
{{- end -}}

{{/* The objects of a file as documents. Arguments: as of `holdfast.objects`. */}}
{{- define "holdfast.documents" -}}
{{- range (include "holdfast.objects" . | fromYaml).items }}
---
{{ toYaml . }}
{{- end }}
{{- end -}}
