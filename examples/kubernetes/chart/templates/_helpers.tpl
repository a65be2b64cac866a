{{/* The name of all objects: the name of the release, with the name of the chart if it is not part of it. */}}
{{- define "amux-bridge.fullname" -}}
{{- if contains "amux-bridge" .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-amux-bridge" .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "amux-bridge.selectorLabels" -}}
app.kubernetes.io/name: amux-bridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "amux-bridge.labels" -}}
{{ include "amux-bridge.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* `image` of the values, with its digest or its tag. The context is (dict "image" ... "version" ...). */}}
{{- define "amux-bridge.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest | quote -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .version) | quote -}}
{{- end -}}
{{- end -}}

{{- define "amux-bridge.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
A native sidecar (Kubernetes 1.29 or newer) for the pod of another chart, which has this chart as a dependency:

    initContainers:
      {{- include "amux-bridge.sidecar" (index .Subcharts "amux-bridge") | nindent 8 }}

The pod needs the volume `sidecar.dataVolume` and runs once only: one SQLite file is for one bridge. The bridge listens
on the loopback of the pod. The probes are commands, because the kubelet cannot reach the loopback of the pod.
*/}}
{{- define "amux-bridge.sidecar" -}}
- name: amux-bridge
  image: {{ include "amux-bridge.image" (dict "image" .Values.image "version" .Chart.AppVersion) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  env:
    {{- range $name, $value := .Values.sidecar.settings }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
    - name: BRIDGE_METRICS_PORT
      value: {{ .Values.metrics.port | quote }}
  envFrom:
    - secretRef:
        name: {{ required "existingSecret: the name of the Secret with AMUX_API_KEY and BRIDGE_SIGNING_SECRETS" .Values.existingSecret }}
    {{- with .Values.extraEnvFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: bridge-metrics
      containerPort: {{ .Values.metrics.port }}
  startupProbe:
    exec:
      command: [amux-bridge, healthy]
    periodSeconds: 2
    timeoutSeconds: 10
    failureThreshold: 60
  livenessProbe:
    httpGet:
      path: /healthz
      port: bridge-metrics
    periodSeconds: 15
    timeoutSeconds: 5
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    {{- include "amux-bridge.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    - name: {{ .Values.sidecar.dataVolume }}
      mountPath: /data
{{- end -}}
