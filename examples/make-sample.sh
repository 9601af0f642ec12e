#!/usr/bin/env bash
# Makes the sample package: ten seconds of northern lights over a lake, in three sizes with one audio
# rendition. Every pixel and every sample comes from the formulas below, so the result is free of anybody
# else's material, and the same ffmpeg makes the same bytes each time.
#
#   examples/make-sample.sh [DIR]      DIR: where the package goes (default: examples/sample)
#
# Needs bash, awk and ffmpeg with libx264; Debian 12's package (5.1.9) made the committed files. The picture
# is one block per layer, the sound follows, then encoding. Metadata is written by hand, in metadata.json.
set -euo pipefail
export LC_ALL=C

dir=${1:-$(dirname "$0")/sample}
rate=25 length=10 segment=2
renditions=(640x360 426x240 256x144)

fail() { echo "make-sample: $*" >&2; exit 1; }

# ---- Picture: 12-bit RGB planes, because dark gradients show bands with 8 -------------------------------

deep='format=gbrp12'
still() { echo "nullsrc=s=640x360:r=1:d=1,$deep,geq=r='$1':g='$2':b='$3',$deep"; }
hold="loop=-1:1,fps=$rate"
exact='accurate_rnd+bitexact'

# Sky, at half size since nothing in it is sharp. Variables: 0, 1 place; 9 brightness, rising over 3 s from a
# first frame that is already worth looking at. Per curtain: 2, 4 height above its lower edge; 3, 5 its rays;
# 6, 7 its light, which ends sharply below and fades upwards. Low light is green, high light violet.
place='st(0,X/W);st(1,Y/H);st(9,0.62+0.38*(1-cos(PI*min(T/3,1)))/2)'
near_edge='st(2,0.50+0.075*sin(4.2*ld(0)+0.22*T+0.4)+0.035*sin(9.7*ld(0)-0.35*T+1)+0.012*sin(23*ld(0)+0.5*T)-ld(1))'
near_rays='st(3,(0.62+0.22*sin(31*ld(0)+4*sin(5*ld(0)+0.2*T)+0.55*T)
  +0.16*sin(73*ld(0)-5*sin(7*ld(0)-0.15*T)-0.8*T))*(0.68+0.32*sin(3.4*ld(0)-0.36*T+1.2)))'
far_edge='st(4,0.36+0.06*sin(5.6*ld(0)-0.18*T+2.2)+0.03*sin(12*ld(0)+0.3*T)-ld(1))'
far_rays='st(5,(0.6+0.25*sin(44*ld(0)-4*sin(6*ld(0)+0.17*T)-0.5*T)+0.15*sin(97*ld(0)+0.7*T))
  *(0.5+0.5*sin(4.3*ld(0)+0.27*T+3.4)))'
near_light='st(6,ld(9)*ld(3)*if(lt(ld(2),0),exp(-pow(ld(2)/0.022,2)),exp(-ld(2)/0.17)))'
far_light='st(7,ld(9)*ld(5)*0.6*if(lt(ld(4),0),exp(-pow(ld(4)/0.03,2)),exp(-ld(4)/0.16)))'
aurora="$place;$near_edge;$near_rays;$far_edge;$far_rays;$near_light;$far_light;st(2,max(ld(2),0));st(4,max(ld(4),0))"
film() { echo "$aurora;4095*(1-exp(-1.55*($1)))"; } # like film, it saturates softly
sky="nullsrc=s=320x180:r=$rate:d=$length,$deep,geq=interpolation=b
  :r='$(film '0.014+0.10*pow(ld(1),4)+ld(6)*(0.10+1.5*ld(2))+ld(7)*(0.22+2.6*ld(4))')'
  :g='$(film '0.032+0.42*pow(ld(1),4)+ld(6)*1.05*exp(-ld(2)/0.20)+ld(7)*0.62*exp(-ld(4)/0.10)')'
  :b='$(film '0.085+0.70*pow(ld(1),4)+ld(6)*(0.42+1.2*ld(2))+ld(7)*(0.62+1.4*ld(4))')'
  ,scale=640:360:flags=bicubic+$exact,$deep"

# Stars: one pixel in 450, chosen by a hash of its place, mostly faint and fewer towards the horizon.
star='st(0,mod(abs(sin(X*12.9898+Y*78.233)*43758.5453),1));
  if(gt(ld(0),0.9978),3900*pow((ld(0)-0.9978)/0.0022,3)*(1-0.7*Y/H),0)'
stars="$(still "$star" "$star" "$star"),gblur=sigma=0.55
  ,lutrgb=r='min(val*2.2,4095)':g='min(val*2.35,4095)':b='min(val*2.6,4095)',$hold"

# Land: misty peaks and, before them, a dark shore. `clip` of the distance to a ridge in pixels smooths it.
peaks='(0.655-0.085*(0.5+0.5*sin(5.2*X/W+0.9))*(1-abs(sin(6.3*X/W+0.45)))-0.050*(1-abs(sin(11.7*X/W+2.1)))
  -0.022*(1-abs(sin(29*X/W+0.3)))-0.009*(1-abs(sin(67*X/W+1.1)))-0.004*abs(sin(151*X/W)))'
shore='(0.702-0.16*pow(abs(X/W-0.40),1.4)
  -abs(X/W-0.40)*(0.050*(1-abs(sin(8.3*X/W+2.4)))+0.03*(1-abs(sin(37*X/W+1))))-0.006*abs(sin(97*X/W)*sin(211*X/W)))'
below_peaks="clip(Y-$peaks*H,0,1)" below_shore="clip(Y-$shore*H,0,1)"
outline="4095*max($below_peaks,$below_shore)"
mist='pow(clip((Y/H-0.52)/0.18,0,1),2)'
ground() { echo "4095*if(gt($below_shore,0.5),$1,$2+$3*$mist)"; }
land="$(still "$(ground 0.010 0.012 0.040)" "$(ground 0.020 0.034 0.120)" "$(ground 0.034 0.066 0.165)"),$hold"
mask="$(still "$outline" "$outline" "$outline"),$hold"

# Lake: the upper 252 lines mirrored into the lower 108, with ripples that widen towards the viewer.
x='X+(0.6+Y*0.04)*sin(0.9*Y/(1+Y*0.02)+1.7*T+0.02*X)'
y='249-1.7*Y+(0.5+Y*0.05)*(sin(2.2*Y/(1+Y*0.02)-2.4*T+0.014*X+1.2*sin(0.013*X+0.4*T))
  +0.6*sin(3.1*Y/(1+Y*0.02)+1.9*T-0.031*X))'
dim='(0.86-0.36*Y/H)'
lake="geq=interpolation=b:r='0.80*$dim*r($x,$y)':g='0.92*$dim*g($x,$y)':b='60+$dim*b($x,$y)'"

picture="$sky[sky];$stars[stars];$land[land];$mask[mask];
  [sky][stars]blend=all_mode=screen:shortest=1,$deep[night];
  [night][land][mask]maskedmerge,crop=640:252:0:0,split[above][mirrored];
  [mirrored]$lake,crop=640:108:0:0[lake];
  [above][lake]vstack,trim=duration=$length"

# ---- Sound: a soft chord (D, then G with the same upper notes) and slow bells over it -------------------

# 468 AAC frames of 1024 samples: with a whole ten seconds the last segment would hold a single frame.
samples=$((468 * 1024))

hertz() { awk -v n="$1" 'BEGIN { printf "%.3f", 440 * 2 ^ ((n - 69) / 12) }'; } # n: MIDI note number
tone() { echo "sin(2*PI*$(hertz "$1")*t)*(0.8+0.2*sin(0.$1*t*9))"; }
sum() { local IFS=+; echo "($*)"; }
chord() { local n tones=(); for n; do tones+=("$(tone "$n")"); done; sum "${tones[@]}"; }
bell() { # AT NOTE: strikes at AT seconds
    echo "gte(t,$1)*(1-exp(-70*(t-$1)))*exp(-1.7*(t-$1))*(sin(2*PI*$(hertz "$2")*(t-$1))
      +0.25*exp(-3*(t-$1))*sin(4*PI*$(hertz "$2")*(t-$1)))"
}
bells() { local pair all=(); for pair; do all+=("$(bell "${pair%:*}" "${pair#*:}")"); done; sum "${all[@]}"; }

turn='(1/(1+exp(-4*(t-5))))'
pad="0.050*($(chord 50 57 64 66)*(1-$turn)+$(chord 43 55 62 66)*$turn)"
left=$(bells 0.1:74 1.35:81 2.6:78 3.85:69 5.1:71 6.35:81 7.6:76)
right=$(bells 0.725:76 1.975:85 3.225:76 4.475:73 5.725:78 6.975:78 8.225:74)
sound="aevalsrc=s=48000:d=$length:exprs='$pad+0.24*$left+0.12*$right|$pad+0.12*$left+0.24*$right'
  ,aecho=0.9:0.8:170|310|470:0.32|0.24|0.16,lowpass=f=5000,afade=t=in:d=0.3,afade=t=out:st=8.6:d=1.4
  ,atrim=end_sample=$samples"

# ---- Encoding -------------------------------------------------------------------------------------------

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ffmpeg=(ffmpeg -hide_banner -nostdin -loglevel error)

name() { echo "${1#*x}p"; } # 640x360 -> 360p

encode() { # all renditions in one pass, so that they share their clock
    local size i=0 outputs='' scaled='' maps=() streams='' peak=(1200k 600k 300k)
    for size in "${renditions[@]}"; do
        outputs+="[s$i]"
        scaled+=";[s$i]scale=${size/x/:}:flags=lanczos+$exact:out_color_matrix=bt709,setsar=1,format=yuv420p[v$i]"
        maps+=(-map "[v$i]" "-maxrate:v:$i" "${peak[i]}" "-bufsize:v:$i" "${peak[i]}")
        streams+="v:$i,agroup:audio,name:$(name "$size") "
        i=$((i + 1))
    done
    "${ffmpeg[@]}" -filter_complex "$picture,split=$i$outputs$scaled;$sound[a]" "${maps[@]}" -map '[a]' \
        -threads 1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact \
        -c:v libx264 -preset slow -crf 18 -profile:v main -aq-mode 3 \
        -g $((rate * segment)) -keyint_min $((rate * segment)) -sc_threshold 0 \
        -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv \
        -c:a aac -b:a 96k -ac 2 \
        -f hls -hls_time $segment -hls_list_size 0 -hls_playlist_type vod -hls_flags independent_segments \
        -var_stream_map "${streams}a:0,agroup:audio,name:audio" \
        -hls_segment_filename "$work/%v/seg_%03d.ts" "$work/%v/index.m3u8"
}

# Prints "PEAK AVERAGE" in bits per second, measured as RFC 8216 section 4.3.4.2 says: the peak is over
# any run of segments that lasts between 0.5 and 1.5 target durations.
bandwidth() {
    (cd "$work/$1" && awk -F '[:,]' '
        /^#EXT-X-TARGETDURATION/ { target = $2 }
        /^#EXTINF/ { seconds[++n] = $2 }
        /^[^#]/ { cmd = "wc -c < " $0; cmd | getline size; close(cmd); bits[n] = 8 * size }
        END {
            for (i = 1; i <= n; i++) {
                all += bits[i]; time += seconds[i]; b = s = 0
                for (j = i; j <= n && (s += seconds[j]) <= 1.5 * target; j++) {
                    b += bits[j]
                    if (s >= 0.5 * target && b / s > peak) peak = b / s
                }
            }
            printf "%d %d\n", peak + 1, all / time + 1
        }' index.m3u8)
}

codec() { # the three bytes after the NAL header of the sequence parameter set: RFC 6381 section 3.3
    local sps
    sps=$("${ffmpeg[@]}" -f mpegts -i "$work/$1/seg_000.ts" -map 0:v -c copy -frames:v 1 -f h264 - |
        od -An -v -tx1 | tr -d ' \n' | grep -oE -m 1 '000001(67|27|47)[0-9a-f]{6}' | head -n 1)
    [ -n "$sps" ] || fail "no sequence parameter set in $1/seg_000.ts"
    echo "avc1.${sps:8:6}"
}

master() {
    local size peak average audio_peak audio_average
    read -r audio_peak audio_average < <(bandwidth audio)
    printf '%s\n' '#EXTM3U' '#EXT-X-VERSION:6' '#EXT-X-INDEPENDENT-SEGMENTS' ''
    printf '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="%s",LANGUAGE="%s",%s,CHANNELS="2",URI="%s"\n\n' \
        'Music' 'zxx' 'DEFAULT=YES,AUTOSELECT=YES' 'audio/index.m3u8'
    for size in "${renditions[@]}"; do
        read -r peak average < <(bandwidth "$(name "$size")")
        printf '#EXT-X-STREAM-INF:BANDWIDTH=%d,AVERAGE-BANDWIDTH=%d,CODECS="%s,mp4a.40.2"' \
            $((peak + audio_peak)) $((average + audio_average)) "$(codec "$(name "$size")")"
        printf ',RESOLUTION=%s,FRAME-RATE=%d.000,AUDIO="audio"\n%s/index.m3u8\n' "$size" "$rate" "$(name "$size")"
    done
}

encode
master >"$work/master.m3u8"
problems=$("${ffmpeg[@]}" -xerror -i "$work/master.m3u8" -map 0 -f null - 2>&1) || fail "does not play: $problems"
[ -z "$problems" ] || fail "does not play cleanly: $problems"

mkdir -p "$dir"
for part in audio $(for size in "${renditions[@]}"; do name "$size"; done) master.m3u8; do
    rm -rf "${dir:?}/$part"
    mv "$work/$part" "$dir/$part"
done
echo "$dir: $(find "$dir" -type f | wc -l) files, $(find "$dir" -type f -exec cat {} + | wc -c) bytes"
