{{- define "culvert.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 46 characters leave room for the longest suffix, and for the suffix of a pod's name. */}}
{{- define "culvert.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains (include "culvert.name" .) .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "culvert.name" .) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "culvert.selectorLabels" -}}
app.kubernetes.io/name: {{ include "culvert.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "culvert.labels" -}}
{{ include "culvert.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "culvert.serviceAccountName" -}}
{{- default (include "culvert.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "culvert.bridgeSecret" -}}
{{- default (printf "%s-bridge" (include "culvert.fullname" .)) .Values.bridge.certificate.existingSecret }}
{{- end }}

{{- define "culvert.meshSecret" -}}
{{- default (printf "%s-mesh" (include "culvert.fullname" .)) .Values.mesh.existingSecret }}
{{- end }}

{{/* What is cluster-wide carries the namespace in its name, so that two releases do not meet. */}}
{{- define "culvert.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "culvert.fullname" .) }}
{{- end }}

{{/* The part of a Service's spec that its type decides. Takes the values of one service. */}}
{{- define "culvert.serviceType" -}}
type: {{ .type }}
{{- if ne .type "ClusterIP" }}
externalTrafficPolicy: {{ .externalTrafficPolicy }}
{{- end }}
{{- if and (eq .type "LoadBalancer") .loadBalancerClass }}
loadBalancerClass: {{ .loadBalancerClass }}
{{- end }}
{{- end }}
