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

{{/* Environment by which another certificate authority is known, if there is one: weft.authority.env . */}}
{{- define "weft.authority.env" -}}
{{- with .Values.certificateAuthority -}}
{{- include "weft.env" (list "CA_ADDRESS" .address) }}
{{- with .serverName }}
{{ include "weft.env" (list "CA_SERVER_NAME" .) }}
{{- end }}
- {name: CA_ROOT_CA, value: /var/run/weft/authority/roots.pem}
{{- end }}
{{- end -}}

{{/* Volume with its roots, mounted at /var/run/weft/authority: weft.authority.volume . */}}
{{- define "weft.authority.volume" -}}
{{- with .Values.certificateAuthority -}}
- name: authority
  configMap: {name: {{ .rootsConfigMap }}, items: [{key: {{ .rootsKey | toRawJson }}, path: roots.pem}]}
{{- end }}
{{- end -}}
