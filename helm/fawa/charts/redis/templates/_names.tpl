{{- define "redis.selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "redis.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "redis.selector" . }}
app.kubernetes.io/part-of: fawa
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
