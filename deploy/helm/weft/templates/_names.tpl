{{/* Image of one program: weft.image (list . "mesh-ctrl" .Values.controller.image) */}}
{{- define "weft.image" -}}
{{- $root := index . 0 -}}
{{- $program := index . 1 -}}
{{- index . 2 | default (printf "%s/%s:%s" $root.Values.image.registry $program ($root.Values.image.tag | default $root.Chart.AppVersion)) -}}
{{- end -}}

{{/* An item of a container's environment. A text may hold anything. */}}
{{- define "weft.env" -}}
- {name: {{ index . 0 }}, value: {{ index . 1 | toString | toRawJson }}}
{{- end -}}

{{/* Where pods may run, and what they are pulled with: weft.placement (list . .Values.node) */}}
{{- define "weft.placement" -}}
{{- $root := index . 0 -}}
{{- $of := index . 1 -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $of.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with $of.affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of pods: weft.pod.metadata (list "weft-node" .Values.node) */}}
{{- define "weft.pod.metadata" -}}
labels:
  app: {{ index . 0 }}
  istio.io/dataplane-mode: none
{{- with (index . 1).podLabels }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- with (index . 1).podAnnotations }}
annotations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}
