{{/* Names, labels, images: what every object has. */}}

{{- define "holdfast.name" -}}
{{- default "holdfast" .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for every suffix that follows. */}}
{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "holdfast" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-holdfast" (.Release.Name | trunc 31 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.operator" -}}{{ include "holdfast.fullname" . }}-operator{{- end -}}
{{- define "holdfast.webhook" -}}{{ include "holdfast.fullname" . }}-webhook{{- end -}}
{{- define "holdfast.injection" -}}{{ include "holdfast.fullname" . }}-injection{{- end -}}
{{- define "holdfast.tryout" -}}{{ include "holdfast.fullname" . }}-tryout{{- end -}}
{{- define "holdfast.test" -}}{{ include "holdfast.fullname" . }}-test{{- end -}}

{{- define "holdfast.operatorAccount" -}}
{{- .Values.operator.serviceAccount.name | default (include "holdfast.operator" .) -}}
{{- end -}}

{{/* The Secret with the webhook's certificate. */}}
{{- define "holdfast.certificates" -}}
{{- $given := .Values.injection.webhook.certificates -}}
{{- if eq $given.mode "given" }}{{ $given.existingSecret }}{{ else }}{{ include "holdfast.webhook" . }}-certificate{{ end -}}
{{- end -}}

{{/* What is injected by: webhook, policy or none. An operator that serves some namespaces changes nobody's pods. */}}
{{- define "holdfast.injectionMode" -}}
{{- if .Values.watchNamespaces }}none{{ else }}{{ .Values.injection.mode }}{{ end -}}
{{- end -}}

{{/* By which a workload selects its pods. Arguments: the root, and the component. */}}
{{- define "holdfast.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "holdfast.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Arguments: the root, and the component. */}}
{{- define "holdfast.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Metadata of an object of the release. Arguments: the root, the component, and the object's name. */}}
{{- define "holdfast.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 | quote }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "holdfast.labels" (list $root (index . 1)) | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "holdfast.image" -}}
{{- $image := .Values.image -}}
{{- $tag := $image.tag | default .Chart.AppVersion -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- define "holdfast.sidecarImage" -}}
{{- $image := .Values.image -}}
{{- $own := .Values.injection.sidecar.image -}}
{{- $repository := $own.repository | default $image.repository -}}
{{- $tag := $own.tag | default $image.tag | default .Chart.AppVersion -}}
{{- $digest := $own.digest -}}
{{- if not (or $own.repository $own.tag $own.digest) }}{{ $digest = $image.digest }}{{ end -}}
{{- if $digest }}{{ $repository }}@{{ $digest }}{{ else }}{{ $repository }}:{{ $tag }}{{ end -}}
{{- end -}}
