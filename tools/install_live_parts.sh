#!/bin/sh
# Installs what the tests of live upscaling run against, on Debian or Ubuntu: GStreamer's RTSP
# server, VLC as one that knows only UDP, ffmpeg as a receiver and for SRT with a passphrase, and Chromium. The extras whip and
# dev bring SRT's peer and the WHIP server. Tests whose part is missing skip and say so.
set -eu
export DEBIAN_FRONTEND=noninteractive
as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends \
    ffmpeg vlc-bin vlc-plugin-base chromium fonts-dejavu-core python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-rtsp-server-1.0 \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    gstreamer1.0-plugins-ugly gstreamer1.0-x gstreamer1.0-libav gstreamer1.0-rtsp gstreamer1.0-tools
