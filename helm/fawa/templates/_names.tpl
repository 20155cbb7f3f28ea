{{/* Names and labels. */}}

{{- define "fawa.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects all pods of the release. */}}
{{- define "fawa.selector" -}}
app.kubernetes.io/name: fawa
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fawa.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "fawa.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fawa
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "fawa.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fawa.secretName" -}}
{{ .Values.secret.existing | default (include "fawa.fullname" .) }}
{{- end -}}

{{- define "fawa.serviceAccountName" -}}
{{ .Values.serviceAccount.existing | default (include "fawa.fullname" .) }}
{{- end -}}

{{/* The Secret with fawad's own certificate. */}}
{{- define "fawa.tlsSecret" -}}
{{ .Values.tls.secret | default (printf "%s-tls" (include "fawa.fullname" .)) }}
{{- end -}}

{{/* What links begin with, "" if nobody knows. */}}
{{- define "fawa.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl }}
{{- else if and .Values.ingress.enabled .Values.ingress.host -}}
{{ ternary "https" "http" (or (ne .Values.ingress.tlsSecret "") .Values.certManager.enabled) }}://{{ .Values.ingress.host }}
{{- else if and .Values.gateway.enabled .Values.gateway.host -}}
https://{{ .Values.gateway.host }}
{{- end -}}
{{- end -}}
