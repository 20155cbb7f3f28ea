{{/* The pod of a component; takes `root` and `it`. */}}
{{- define "fawa.pod" -}}
{{- $values := .root.Values -}}
{{- $volume := include "fawa.hasVolume" . -}}
serviceAccountName: {{ include "fawa.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
# preStop, the drain, and a margin.
terminationGracePeriodSeconds: {{ add $values.drain.preStop $values.drain.grace 10 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
    # Each roll-out is spread by itself.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "fawa.componentSelector" $ | nindent 8 }}
  {{- end }}
{{- end }}
containers:
  - name: fawad
    image: {{ include "fawa.image" .root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: ["fawad", "--config", "/etc/fawa/config.yaml"]
    env:
      {{- include "fawa.environment" . | nindent 6 }}
    ports:
      - {name: http, containerPort: 8080, protocol: TCP}
      {{- if $values.tls.enabled }}
      - {name: https, containerPort: 8443, protocol: TCP}
      {{- if $values.quic.enabled }}
      - {name: quic, containerPort: 8443, protocol: UDP}
      {{- end }}
      {{- end }}
      - {name: admin, containerPort: 8090, protocol: TCP}
    startupProbe:
      {{- include "fawa.probe" (dict "probe" $values.probes.startup "path" "/healthz") | nindent 6 }}
    readinessProbe:
      {{- include "fawa.probe" (dict "probe" $values.probes.readiness "path" "/readyz") | nindent 6 }}
    livenessProbe:
      {{- include "fawa.probe" (dict "probe" $values.probes.liveness "path" "/healthz") | nindent 6 }}
    {{- if $values.drain.preStop }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ $values.drain.preStop }}}
    {{- end }}
    resources:
      {{- toYaml .it.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: config, mountPath: /etc/fawa, readOnly: true}
      - {name: data, mountPath: /var/lib/fawa}
      - {name: tmp, mountPath: /tmp}
      {{- if $values.tls.enabled }}
      - {name: tls, mountPath: /etc/fawa-tls, readOnly: true}
      {{- end }}
      {{- if and .it.records $values.externalRedis.enabled $values.externalRedis.caConfigMap }}
      - {name: redis-ca, mountPath: /etc/fawa-redis-ca, readOnly: true}
      {{- end }}
      {{- if and .it.files $values.s3.endpoint $values.s3.caConfigMap }}
      - {name: s3-ca, mountPath: /etc/fawa-s3-ca, readOnly: true}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ .it.name }}}
  - name: data
    {{- if $volume }}
    persistentVolumeClaim: {claimName: {{ $values.persistence.existingClaim | default .it.name }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- if $values.tls.enabled }}
  - name: tls
    secret: {secretName: {{ include "fawa.tlsSecret" .root }}, defaultMode: 0440}
  {{- end }}
  {{- if and .it.records $values.externalRedis.enabled $values.externalRedis.caConfigMap }}
  - name: redis-ca
    configMap: {name: {{ $values.externalRedis.caConfigMap }}}
  {{- end }}
  {{- if and .it.files $values.s3.endpoint $values.s3.caConfigMap }}
  - name: s3-ca
    configMap: {name: {{ $values.s3.caConfigMap }}}
  {{- end }}
{{- end -}}

{{/* A probe; takes `probe` and the `path` of one by HTTP. */}}
{{- define "fawa.probe" -}}
{{- if eq (get .probe "via" | default "http") "grpc" -}}
grpc: {port: 8080}
{{- else -}}
httpGet: {path: {{ .path }}, port: admin}
{{- end }}
periodSeconds: {{ .probe.period }}
timeoutSeconds: {{ .probe.timeout }}
failureThreshold: {{ .probe.failures }}
{{- end -}}
