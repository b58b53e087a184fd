{{- define "seckill.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of all objects. */}}
{{- define "seckill.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: seckill-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What selects the pods of a component: a list of the root and its name. */}}
{{- define "seckill.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: seckill-gateway
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The image: a list of the root and another tag, or nothing. */}}
{{- define "seckill.image" -}}
{{- $root := index . 0 -}}{{- $tag := index . 1 -}}
{{- with $root.Values.image -}}
{{- if and .digest (not $tag) -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ $tag | default .tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* From SIGTERM on a process takes the delay and the drain; 10 s more for a batch that is late. */}}
{{- define "seckill.stopSeconds" -}}
{{- $delay := .Values.settings.SECKILL_STOP_DELAY_S | default 1 | float64 -}}
{{- $drain := .Values.settings.SECKILL_DRAIN_S | default 5 | float64 -}}
{{- add (ceil (addf $delay $drain)) 10 -}}
{{- end -}}

{{/* Environment: a list of the root, the Secret's name, its keys, and those that may be missing. */}}
{{- define "seckill.env" -}}
{{- $root := index . 0 -}}{{- $secret := index . 1 -}}
{{- range $name, $value := $root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $key := index . 2 }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ $key }}}
{{- end }}
{{- range $key := index . 3 }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ $key }}, optional: true}
{{- end }}
{{- end -}}

{{/* Of the Pod Security level `restricted`. */}}
{{- define "seckill.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "seckill.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Half a minute until a restart: a busy node is no reason (docs/operating.md#probes). */}}
{{- define "seckill.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: 2
{{- end -}}

{{/* Over zones and hosts, as far as there are some: a list of the root and the component. */}}
{{- define "seckill.spread" -}}
{{- $context := . -}}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "seckill.selector" $context | nindent 8 }}
{{- end }}
{{- end -}}
