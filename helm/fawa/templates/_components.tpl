{{/* The Deployments, and what each needs. */}}

{{/*
JSON: a list of components under `all`, each with
  name       of its objects
  component  all, greet, file or board
  services   what fawad serves there
  paths      what is routed there, by their beginnings; the first component gets everything else
  replicas, autoscaling, resources
  most       replicas that there may ever be
  keeps      whether something is kept that is neither in Redis nor in S3
  boards     whether the whiteboard is there
  files      whether files are there
  records    whether either is there, so that Redis is of use
*/}}
{{- define "fawa.components" -}}
{{- $root := . -}}
{{- $full := include "fawa.fullname" . -}}
{{- $redis := or .Values.externalRedis.enabled .Values.redis.enabled -}}
{{- $s3 := or (ne .Values.s3.endpoint "") .Values.minio.enabled -}}
{{- $board := list -}}
{{- range list "canva" "canvax" }}{{ if has . $root.Values.services }}{{ $board = append $board . }}{{ end }}{{ end -}}
{{- $parts := list -}}
{{- if eq .Values.layout "together" -}}
{{- $parts = list (dict "component" "all" "name" $full "services" .Values.services "paths" list "own" dict) -}}
{{- else -}}
{{- /* First, as it takes uploads to any name (PUT /NAME). */ -}}
{{- if has "file" .Values.services -}}
{{- $parts = append $parts (dict "component" "file" "name" (printf "%s-file" $full) "services" (list "file") "paths" (list "/file.v1.FileService/" "/files/" "/uploads") "own" .Values.apart.file) -}}
{{- end -}}
{{- if $board -}}
{{- $paths := list "/canva.v1.CanvaService/" "/create" "/join" "/ws/canva" "/webtransport/" "/health" -}}
{{- $parts = append $parts (dict "component" "board" "name" (printf "%s-board" $full) "services" $board "paths" $paths "own" .Values.apart.board) -}}
{{- end -}}
{{- if has "greet" .Values.services -}}
{{- $parts = append $parts (dict "component" "greet" "name" (printf "%s-greet" $full) "services" (list "greet") "paths" (list "/greet.v1.GreetService/") "own" .Values.apart.greet) -}}
{{- end -}}
{{- end -}}
{{- $all := list -}}
{{- range $parts -}}
{{- $shared := dict "replicas" $root.Values.replicas "autoscaling" $root.Values.autoscaling "resources" $root.Values.resources -}}
{{- $it := mergeOverwrite (deepCopy $shared) (deepCopy .own) -}}
{{- $_ := set $it "component" .component -}}
{{- $_ := set $it "name" .name -}}
{{- $_ := set $it "services" .services -}}
{{- $_ := set $it "paths" .paths -}}
{{- $_ := set $it "most" (ternary $it.autoscaling.max $it.replicas $it.autoscaling.enabled) -}}
{{- $boards := or (has "canva" .services) (has "canvax" .services) -}}
{{- $files := has "file" .services -}}
{{- $_ := set $it "boards" $boards -}}
{{- $_ := set $it "files" $files -}}
{{- $_ := set $it "records" (or $files $boards) -}}
{{- $_ := set $it "keeps" (or (and $files (not (and $redis $s3))) (and $boards (not $redis))) -}}
{{- $all = append $all $it -}}
{{- end -}}
{{- dict "all" $all | toJson -}}
{{- end -}}

{{/* Whether a component has a volume of its own; takes `root` and `it`. */}}
{{- define "fawa.hasVolume" -}}
{{- if and .it.keeps .root.Values.persistence.enabled }}yes{{ end -}}
{{- end -}}

{{/* Labels that select one component; takes `root` and `it`. */}}
{{- define "fawa.componentSelector" -}}
{{ include "fawa.selector" .root }}
app.kubernetes.io/component: {{ .it.component }}
{{- end -}}

{{/* fawad's configuration file; takes `root` and `it`. Values are text to fawad, so all are quoted. */}}
{{- define "fawa.config" -}}
{{- $values := .root.Values -}}
services: {{ join "," .it.services | quote }}
listen: ":8080"
listen_tls: {{ ternary ":8443" "off" $values.tls.enabled | quote }}
{{- if $values.tls.enabled }}
tls.cert: /etc/fawa-tls/tls.crt
tls.key: /etc/fawa-tls/tls.key
quic.enabled: {{ ternary "on" "off" $values.quic.enabled | quote }}
{{- if $values.quic.enabled }}
quic.public_port: {{ $values.quic.port | quote }}
{{- end }}
{{- end }}
admin.listen: ":8090"
data_dir: /var/lib/fawa
drain_grace: "{{ $values.drain.grace }}s"
{{- with include "fawa.publicUrl" .root }}
public_url: {{ . | quote }}
{{- end }}
{{- with $values.trustedProxies }}
trusted_proxies: {{ join "," . | quote }}
{{- end }}
{{- if and .it.records $values.externalRedis.enabled $values.externalRedis.caConfigMap }}
redis.ca: /etc/fawa-redis-ca/ca.crt
{{- end }}
{{- if .it.files }}
{{- if $values.minio.enabled }}
s3.endpoint: "http://{{ .root.Release.Name }}-minio:9000"
s3.bucket: {{ $values.s3.bucket | quote }}
s3.prefix: {{ $values.s3.prefix | quote }}
{{- with $values.s3.publicEndpoint }}
s3.public_endpoint: {{ . | quote }}
{{- end }}
{{- else if $values.s3.endpoint }}
{{- with $values.s3 }}
s3.endpoint: {{ .endpoint | quote }}
s3.bucket: {{ .bucket | quote }}
s3.region: {{ .region | quote }}
s3.prefix: {{ .prefix | quote }}
s3.virtual_host: {{ ternary "on" "off" .virtualHost | quote }}
{{- with .publicEndpoint }}
s3.public_endpoint: {{ . | quote }}
{{- end }}
{{- if .caConfigMap }}
s3.ca: /etc/fawa-s3-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- end }}
log.format: {{ get $values.config "log.format" | default "json" | quote }}
{{- range $key, $text := omit $values.config "log.format" }}
{{ $key }}: {{ $text | quote }}
{{- end }}
{{- end -}}

{{/* Variables with secrets, from the Secret; takes `root` and `it`. */}}
{{- define "fawa.environment" -}}
{{- $values := .root.Values -}}
{{- $secret := include "fawa.secretName" .root -}}
- name: FAWA_ADMIN_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: admin-token}}
- name: FAWA_LINK_SECRET
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: link-secret}}
{{- if .it.records }}
{{- if $values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .root.Release.Name }}-redis, key: password}}
- name: FAWA_REDIS_URL
  value: "redis://:$(REDIS_PASSWORD)@{{ .root.Release.Name }}-redis:6379/0"
{{- else if $values.externalRedis.enabled }}
- name: FAWA_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: redis-url}}
{{- end }}
{{- end }}
{{- if .it.files }}
{{- if $values.minio.enabled }}
- name: FAWA_S3_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .root.Release.Name }}-minio, key: user}}
- name: FAWA_S3_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ .root.Release.Name }}-minio, key: password}}
{{- else if $values.s3.endpoint }}
- name: FAWA_S3_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: s3-access-key}}
- name: FAWA_S3_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: s3-secret-key}}
{{- end }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
