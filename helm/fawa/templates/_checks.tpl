{{/* What the schema cannot say: values that do not fit together. Each refusal says what to do. */}}

{{/* Settings that the chart writes itself, and the values that they come from. */}}
{{- define "fawa.ownSettings" -}}
services: services
listen: service.port
listen_tls: tls.enabled
admin.listen: monitoring
admin.token: secret
link_secret: secret
data_dir: persistence
drain_grace: drain.grace
public_url: publicUrl
trusted_proxies: trustedProxies
tls.cert: tls.secret
tls.key: tls.secret
quic.enabled: quic.enabled
quic.public_port: quic.port
redis.url: externalRedis
redis.ca: externalRedis.caConfigMap
s3.endpoint: s3.endpoint
s3.bucket: s3.bucket
s3.access_key: secret
s3.secret_key: secret
s3.region: s3.region
s3.prefix: s3.prefix
s3.public_endpoint: s3.publicEndpoint
s3.virtual_host: s3.virtualHost
s3.ca: s3.caConfigMap
{{- end -}}

{{- define "fawa.check" -}}
{{- $values := .Values -}}
{{- $redis := or $values.externalRedis.enabled $values.redis.enabled -}}
{{- $s3 := or (ne $values.s3.endpoint "") $values.minio.enabled -}}
{{- range (include "fawa.components" . | fromJson).all -}}
{{- $where := printf "%d replicas of %s" (int .most) (join ", " .services) -}}
{{- if and (gt (int .most) 1) .boards -}}
{{- fail (printf "%s: a board lives in the memory of one process, so what serves canva or canvax has one replica and no autoscaling. Set replicas to 1; or layout to apart, and more for apart.greet and apart.file alone." $where) -}}
{{- end -}}
{{- if and (gt (int .most) 1) .files (not (and $redis $s3)) -}}
{{- fail (printf "%s: they share files only by Redis and S3. Set externalRedis.enabled and s3.endpoint (or redis.enabled and minio.enabled), or one replica." $where) -}}
{{- end -}}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) -}}
{{- fail (printf "autoscaling of %s: min (%d) is above max (%d)." .component (int .autoscaling.min) (int .autoscaling.max)) -}}
{{- end -}}
{{- if and .autoscaling.enabled (not .autoscaling.cpu) (not .autoscaling.metric.name) -}}
{{- fail (printf "autoscaling of %s looks at nothing: set autoscaling.cpu or autoscaling.metric.name." .component) -}}
{{- end -}}
{{- end -}}
{{- $own := include "fawa.ownSettings" . | fromYaml -}}
{{- range $key, $text := $values.config -}}
{{- if hasKey $own $key -}}
{{- fail (printf "config has %s, which the chart writes itself: set the value %s." $key (get $own $key)) -}}
{{- end -}}
{{- end -}}
{{- if and $values.redis.enabled $values.externalRedis.enabled -}}
{{- fail "redis.enabled and externalRedis.enabled are two Redis: keep one." -}}
{{- end -}}
{{- if and $values.minio.enabled $values.s3.endpoint -}}
{{- fail "minio.enabled and s3.endpoint are two S3 services: keep one." -}}
{{- end -}}
{{- if not $values.secret.existing -}}
{{- if and $values.externalRedis.enabled (not $values.secret.redisUrl) -}}
{{- fail "externalRedis.enabled takes its URL: set secret.redisUrl, or secret.existing with the key redis-url." -}}
{{- end -}}
{{- if and $values.s3.endpoint (not (and $values.secret.s3AccessKey $values.secret.s3SecretKey)) -}}
{{- fail "s3.endpoint takes its keys: set secret.s3AccessKey and secret.s3SecretKey, or secret.existing with the keys s3-access-key and s3-secret-key." -}}
{{- end -}}
{{- end -}}
{{- if and $values.tls.enabled (not $values.tls.secret) (not $values.certManager.enabled) -}}
{{- fail "tls.enabled takes a certificate: set tls.secret, or certManager.enabled." -}}
{{- end -}}
{{- if and $values.quic.enabled (not $values.tls.enabled) -}}
{{- fail "quic.enabled takes fawad's own TLS: set tls.enabled and tls.secret (or certManager.enabled)." -}}
{{- end -}}
{{- if and $values.quic.enabled (eq $values.layout "apart") -}}
{{- fail "quic.enabled takes layout together: nothing routes HTTP/3 by its path to one of several Deployments." -}}
{{- end -}}
{{- if and $values.persistence.existingClaim (eq $values.layout "apart") -}}
{{- fail "persistence.existingClaim is one volume, and layout apart has a Deployment for each: leave it empty." -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.enabled takes ingress.host." -}}
{{- end -}}
{{- if and $values.ingress.grpcHost (eq $values.ingress.grpcHost $values.ingress.host) -}}
{{- fail "ingress.grpcHost must differ from ingress.host: Connect and gRPC have the same paths, and a proxy speaks HTTP/1.1 or HTTP/2 to them by the host." -}}
{{- end -}}
{{- if and $values.gateway.enabled (not (and $values.gateway.host $values.gateway.parents)) -}}
{{- fail "gateway.enabled takes gateway.host and gateway.parents." -}}
{{- end -}}
{{- if and $values.gateway.grpcHost (eq $values.gateway.grpcHost $values.gateway.host) -}}
{{- fail "gateway.grpcHost must differ from gateway.host: a Gateway refuses a GRPCRoute where an HTTPRoute has the host." -}}
{{- end -}}
{{- if and $values.certManager.enabled (not (include "fawa.certificateHosts" .)) -}}
{{- fail "certManager.enabled takes a name: set certManager.hosts, ingress.host or gateway.host." -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.egress) (or $values.externalRedis.enabled $values.s3.endpoint) -}}
{{- fail "networkPolicy.enabled shuts off the external Redis and S3: set networkPolicy.egress to rules that lead there." -}}
{{- end -}}
{{- end -}}

{{/* The names in the certificate, one on each line. */}}
{{- define "fawa.certificateHosts" -}}
{{- $hosts := .Values.certManager.hosts -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts (list .Values.ingress.host .Values.ingress.grpcHost) }}{{ end -}}
{{- if .Values.gateway.enabled }}{{ $hosts = concat $hosts (list .Values.gateway.host .Values.gateway.grpcHost) }}{{ end -}}
{{- range compact $hosts | uniq }}
- {{ . | quote }}
{{- end -}}
{{- end -}}
