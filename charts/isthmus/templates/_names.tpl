{{/* Labels of every object; those that tools look for are added where they belong. */}}
{{- define "isthmus.labels" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "isthmus.image" -}}
{{ .root.Values.image.hub }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What all pods of the mesh have: they are not in the mesh themselves. */}}
{{- define "isthmus.podLabels" -}}
istio.io/dataplane-mode: none
sidecar.istio.io/inject: "false"
{{- end }}

{{- define "isthmus.podAnnotations" -}}
{{- $scrape := dict -}}
{{- if .root.Values.monitoring.annotations -}}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (toString .port) -}}
{{- end -}}
{{- merge (dict) .more $scrape (dict "sidecar.istio.io/inject" "false") | toYaml }}
{{- end }}

{{- define "isthmus.env" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "isthmus.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "isthmus.istiodHost" -}}
istiod.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "isthmus.trustedNodeAccounts" -}}
{{- if .Values.istiod.trustedNodeAccounts }}{{ join "," .Values.istiod.trustedNodeAccounts }}{{ else }}{{ .Release.Namespace }}/ztunnel{{ end }}
{{- end }}

{{/* What belongs to the whole cluster carries revision and namespace, so that two releases do not meet. */}}
{{- define "isthmus.istiodClusterName" -}}
istiod-lite-clusterrole{{ include "isthmus.ofRevision" . }}-{{ .Release.Namespace }}
{{- end }}
{{- define "isthmus.webhook" -}}
istio-validator{{ include "isthmus.ofRevision" . }}-{{ .Release.Namespace }}
{{- end }}
{{- define "isthmus.ofRevision" -}}
{{- if ne .Values.revision "default" }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{/* Whether a CRD that is there, or is not, is this release's to write. Takes root and there. */}}
{{- define "isthmus.ownsDefinition" -}}
{{- $name := dig "metadata" "annotations" "meta.helm.sh/release-name" "" .there }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" .there }}
{{- if or (not .there) (and (eq $name .root.Release.Name) (eq $namespace .root.Release.Namespace)) }}yes{{ end }}
{{- end }}
