{{- define "minio.selector" -}}
app.kubernetes.io/name: minio
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "minio.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "minio.selector" . }}
app.kubernetes.io/part-of: fawa
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
