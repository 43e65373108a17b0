{{/* Where the test's memory is. */}}
{{- define "holdfast.testNamespace" -}}
{{- .Values.test.namespace | default .Release.Namespace -}}
{{- end -}}

{{/*
The backend of the test as `{name, namespace, own}`, or nothing where none can be told; `own`: the test makes it, on the
server for trying out.
*/}}
{{- define "holdfast.testBackend" -}}
{{- $namespace := include "holdfast.testNamespace" . -}}
{{- $given := .Values.test.backendRef -}}
{{- $backend := dict -}}
{{- if $given.name -}}
{{- $backend = dict "name" $given.name "namespace" ($given.namespace | default $namespace) "own" false -}}
{{- else if .Values.tryout.enabled -}}
{{- $backend = dict "name" (include "holdfast.test" .) "namespace" .Release.Namespace "own" true -}}
{{- end -}}
{{- $served := true -}}
{{- if .Values.watchNamespaces -}}
{{- $served = and (has $namespace .Values.watchNamespaces) (has ($backend.namespace | default $namespace) .Values.watchNamespaces) -}}
{{- end -}}
{{- if and $backend $served }}{{ toYaml $backend }}{{ end -}}
{{- end -}}

{{/* Metadata of an object of the test. Arguments: the root, the name, the namespace, the weight, and when it is deleted. */}}
{{- define "holdfast.testMetadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 | quote }}
namespace: {{ index . 2 | quote }}
labels:
  {{- include "holdfast.labels" (list $root "test") | nindent 2 }}
annotations:
  {{- with $root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  helm.sh/hook: test
  helm.sh/hook-weight: {{ index . 3 | quote }}
  helm.sh/hook-delete-policy: {{ index . 4 }}
{{- end -}}

{{/* A container that runs one of the programs in files/test. Arguments: the root, the program, and its arguments. */}}
{{- define "holdfast.testContainer" -}}
{{- $root := index . 0 -}}
- name: test
  image: {{ include "holdfast.image" $root | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [python3, /test/{{ index . 1 }}.py]
  args:
  - --seconds={{ int $root.Values.test.timeoutSeconds }}
  {{- range index . 2 }}
  - {{ . | quote }}
  {{- end }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {cpu: "1", memory: 256Mi}
  {{- include "holdfast.containerSecurity" $root | nindent 2 }}
  volumeMounts:
  - {name: test, mountPath: /test, readOnly: true}
{{- end -}}
