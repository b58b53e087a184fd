{{/* Of a Rollout: consumers first, then a few gateways at a time while the analysis runs. */}}
{{- define "seckill.canary" -}}
{{- $canary := .Values.gateway.canary -}}
strategy:
  canary:
    maxUnavailable: 0
    maxSurge: 25%
    analysis:
      templates:
        - templateName: {{ include "seckill.name" . }}-canary
      # From the first new gateway on.
      startingStep: 2
      args:
        - name: canary-hash
          valueFrom: {podTemplateHashValue: Latest}
    steps:
      # No new gateway yet: the consumers' Deployment rolls meanwhile. What an old gateway sends, a
      # new consumer reads; the other way round a message may wait in a retry queue.
      - setWeight: 0
      - pause: {duration: {{ printf "%ds" (int $canary.consumersFirstSeconds) }}}
      {{- range $canary.steps }}
      - setWeight: {{ . }}
      - pause: {duration: {{ printf "%ds" (int $canary.pauseSeconds) }}}
      {{- end }}
{{- end -}}

{{/* A query of the canary's pods: a list of the root and the query, with SELF for their label. */}}
{{- define "seckill.measure" -}}
{{- $canary := (index . 0).Values.gateway.canary -}}
interval: 30s
failureLimit: 1
# Prometheus may be away for a while; it says nothing about the canary.
consecutiveErrorLimit: 10
provider:
  prometheus:
    address: {{ $canary.prometheus }}
    query: |
      {{- index . 1 | replace "SELF" "rollouts_pod_template_hash=\"{{args.canary-hash}}\"" | nindent 6 }}
{{- end -}}
