{{- /* Prefix of every name: "pilotlight" for a release of that name. 47 characters leave room for the
       longest suffix, -activator-admin. */}}
{{- define "pilotlight.name" -}}
{{ .Release.Name | trunc 47 | trimSuffix "-" }}
{{- end }}

{{- /* Labels that select the pods of a component. Takes [context, component]. */}}
{{- define "pilotlight.selector" -}}
{{- $ctx := index . 0 -}}
app.kubernetes.io/name: pilotlight
app.kubernetes.io/instance: {{ $ctx.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Labels of an object. Takes [context, component]. */}}
{{- define "pilotlight.labels" -}}
{{- $ctx := index . 0 -}}
{{ include "pilotlight.selector" . }}
app.kubernetes.io/version: {{ $ctx.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $ctx.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $ctx.Chart.Name $ctx.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* An image. Takes [context, image values]. */}}
{{- define "pilotlight.image" -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end }}

{{- /* Where pods of a component may run. Takes [context, component's values]. */}}
{{- define "pilotlight.placement" -}}
{{- $ctx := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $ctx.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
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
{{- end }}

{{- /* Spreads the replicas of a component over nodes; and over zones, unless its values say where they may run.
       Zones are not a second topologySpreadConstraint: the scheduler takes no account of a node that lacks the label
       of any of them, so that without zones nothing would be spread at all.
       Takes [context, component, component's values]. */}}
{{- define "pilotlight.spread" -}}
{{- $selector := include "pilotlight.selector" . -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- if not (index . 2).affinity }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{- /* Security contexts that the Pod Security Standard `restricted` asks for. Takes the user's id. */}}
{{- define "pilotlight.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "pilotlight.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Annotations of a component's pods. Takes [context, component's values]. */}}
{{- define "pilotlight.podAnnotations" -}}
{{- if (index . 0).Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end }}
{{- with (index . 1).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Probes of operator and activator. */}}
{{- define "pilotlight.probes" -}}
livenessProbe:
  httpGet: { path: /livez, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: 3
{{- end }}

{{- /* The environment variable with the signing keys. */}}
{{- define "pilotlight.keysEnv" -}}
- name: PILOTLIGHT_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ .Values.keys.existingSecret | default (printf "%s-keys" (include "pilotlight.name" .)) }}
      key: keys
{{- end }}

{{- /* How callers reach Functions. */}}
{{- define "pilotlight.urlScheme" -}}
{{- if and .Values.tls.redirect (not .Values.tls.secrets) -}}
  {{- fail "tls.redirect needs tls.secrets: without certificates nothing can be redirected" -}}
{{- end -}}
{{ if .Values.tls.secrets }}https{{ else }}{{ .Values.urlScheme }}{{ end }}
{{- end }}

{{- /* Which Redis: embedded, url, secret or none. */}}
{{- define "pilotlight.redisMode" -}}
{{- $external := .Values.redis.external -}}
{{- if and $external.url $external.existingSecret -}}
  {{- fail "redis.external takes url or existingSecret, not both" -}}
{{- end -}}
{{- if not .Values.redis.enabled -}}
  {{- if or $external.url $external.existingSecret -}}
    {{- fail "redis.enabled is false, but redis.external names a Redis: remove one of them" -}}
  {{- end -}}none
{{- else if $external.url -}}url
{{- else if $external.existingSecret -}}secret
{{- else -}}embedded
{{- end -}}
{{- end }}
