{{/* Values that contradict each other are refused, each with what to write. What a single value may be, the schema says. */}}
{{- define "holdfast.checks" -}}
{{- $values := .Values -}}
{{- $cluster := eq $values.rbac.secrets "cluster" -}}
{{- if and $cluster (or $values.tenantNamespaces $values.backendNamespaces) -}}
{{- fail "rbac.secrets: cluster gives the operator Secrets in every namespace: leave tenantNamespaces and backendNamespaces empty, or write rbac.secrets: namespaces." -}}
{{- end -}}
{{- if and $cluster $values.watchNamespaces -}}
{{- fail "rbac.secrets: cluster is for an operator that serves every namespace: with watchNamespaces write rbac.secrets: namespaces, and list them in tenantNamespaces." -}}
{{- end -}}
{{- if and $cluster (not $values.admission.policies) -}}
{{- fail "rbac.secrets: cluster lets the operator write any Secret of the cluster, and the admission policies confine it to those of bindings: write admission.policies: true, or rbac.secrets: namespaces." -}}
{{- end -}}
{{- if $values.watchNamespaces -}}
{{- range concat $values.tenantNamespaces $values.backendNamespaces -}}
{{- if not (has . $values.watchNamespaces) -}}
{{- fail (printf "the namespace %s is in tenantNamespaces or backendNamespaces and not in watchNamespaces: the operator would not look there. Add it, or leave it out." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $lease := $values.operator.leaderElection -}}
{{- if or (ge (float64 $lease.retryPeriod) (float64 $lease.renewDeadline)) (ge (float64 $lease.renewDeadline) (float64 $lease.leaseDuration)) -}}
{{- fail "operator.leaderElection needs retryPeriod < renewDeadline < leaseDuration." -}}
{{- end -}}
{{- if and (not $values.operator.serviceAccount.create) (not $values.operator.serviceAccount.name) -}}
{{- fail "operator.serviceAccount.create: false needs the name of a ServiceAccount in operator.serviceAccount.name." -}}
{{- end -}}
{{- if and (eq (include "holdfast.injectionMode" .) "policy") (semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "injection.mode: policy needs Kubernetes 1.36 or newer, and this is %s: write injection.mode: webhook." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if eq (include "holdfast.injectionMode" .) "policy" -}}
{{- range $kind := list "requests" "limits" -}}
{{- $names := keys (index $values.injection.sidecar.resources $kind | default dict) | sortAlpha | join " and " -}}
{{- if ne $names "cpu and memory" -}}
{{- fail (printf "injection.mode: policy sets cpu and memory of the sidecar, requests and limits, and injection.sidecar.resources.%s has %s: write both and no others, or injection.mode: webhook." $kind (default "neither" $names)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $certificates := $values.injection.webhook.certificates -}}
{{- if eq $certificates.mode "given" -}}
{{- if not (and $certificates.existingSecret $certificates.caBundle) -}}
{{- fail "injection.webhook.certificates.mode: given needs the Secret in existingSecret and the authority's certificates in caBundle." -}}
{{- end -}}
{{- else if or $certificates.existingSecret $certificates.caBundle -}}
{{- fail (printf "injection.webhook.certificates.existingSecret and caBundle are for mode: given, and the mode is %s: leave them empty, or write mode: given." $certificates.mode) -}}
{{- end -}}
{{- if contains "." (include "holdfast.fullname" .) -}}
{{- fail (printf "the name of a Service has no dot, and the release is called %s: write another name in fullnameOverride." .Release.Name) -}}
{{- end -}}
{{- $webhook := $values.injection.webhook -}}
{{- if and (eq (include "holdfast.injectionMode" .) "webhook") (eq (int $webhook.port) (int $webhook.statusPort)) -}}
{{- fail (printf "injection.webhook.port and statusPort are both %d: one program listens on both, so write another one." (int $webhook.port)) -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not (or $values.networkPolicy.backends $values.tryout.enabled)) -}}
{{- fail "networkPolicy.enabled keeps the operator from every server that is not named: say in networkPolicy.backends where those of backends are." -}}
{{- end -}}
{{- if and $values.tryout.existingSecret (not $values.tryout.enabled) -}}
{{- fail "tryout.existingSecret is for the server for trying out: write tryout.enabled: true, or leave it empty. Credentials of your own servers are named by their MemoryBackends, in spec.authRef." -}}
{{- end -}}
{{- end -}}
