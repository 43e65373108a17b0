{{/* Parts of pod templates. */}}

{{/* Metadata of a pod template. Arguments: the root, the component, and the values of the workload. */}}
{{- define "holdfast.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $of := index . 2 -}}
labels:
  {{- $labels := include "holdfast.labels" (list $root (index . 1)) | fromYaml }}
  {{- toYaml (merge (dict) $of.podLabels $labels) | nindent 2 }}
{{- $annotations := merge (dict) $of.podAnnotations $root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where pods run. Arguments: the root, the component, and the values of the workload. */}}
{{- define "holdfast.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $of := index . 2 -}}
{{- with $of.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if $of.affinity }}
  {{- toYaml $of.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "holdfast.selector" (list $root $component) | nindent 12 }}
{{- end }}
{{- with $of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $of.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range $of.topologySpreadConstraints }}
{{- $spread := . }}
{{- if not (hasKey . "labelSelector") }}
{{- $own := dict "matchLabels" (include "holdfast.selector" (list $root $component) | fromYaml) }}
{{- $spread = merge (dict "labelSelector" $own) . }}
{{- end }}
- {{ toYaml $spread | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The restricted Pod Security Standard, of a pod. */}}
{{- define "holdfast.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The same, of a container. */}}
{{- define "holdfast.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Probes of the port `status`: a restart helps where /healthz fails, and traffic goes where /readyz does not. */}}
{{- define "holdfast.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: status}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: status}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: status}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "holdfast.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
