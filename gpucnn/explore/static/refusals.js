// What the engine refuses, in Korean. The engine's sentences are English; those that the panels can meet are matched
// here, and what a group caught is put where its number stands.

const KOREAN = [
  ["layer (\\d+) \\((\\w+)\\): (.+)", "층 $1 ($2): $3"],
  ["a kernel of (\\S+) is larger than the padded input of (\\d+) on spatial axis (\\d) \\(input (\\d+), padding (.+?)\\); a padding of (\\d+), a smaller kernel or a larger input would fit", "공간 축 $3에서 커널 $1이(가) 패딩을 더한 입력 $2보다 큽니다(입력 $4, 패딩 $5). 패딩을 $6(으)로 하거나, 커널을 줄이거나, 입력을 키우면 맞습니다"],
  ["a kernel of (\\d+) \\(dilated: (\\d+)\\) is larger than the padded input of (\\d+) on spatial axis (\\d) \\(input (\\d+), padding (.+?)\\); a padding of (\\d+), a smaller kernel or a larger input would fit", "공간 축 $4에서 커널 $1(팽창하여 $2)이(가) 패딩을 더한 입력 $3보다 큽니다(입력 $5, 패딩 $6). 패딩을 $7(으)로 하거나, 커널을 줄이거나, 입력을 키우면 맞습니다"],
  ["stride (\\d+) does not divide (\\d+) = input (\\d+) \\+ padding (\\d+) \\+ (\\d+) - kernel (\\d+) on spatial axis (\\d) evenly; padding (.+?)(?: \\(before, after\\))? or stride (\\d+)(?: or \\d+)? would fit", "공간 축 $7에서 스트라이드 $1은(는) $2 = 입력 $3 + 패딩 $4 + $5 − 커널 $6을(를) 나누어떨어뜨리지 못합니다. 패딩 $8 또는 스트라이드 $9이면 맞습니다"],
  ["pooling padding (.+?) on spatial axis (\\d) is more than half the window of (\\d+), so a window could hold no pixel at all; use a padding of at most (\\d+)", "공간 축 $2에서 풀링 패딩 $1은(는) 창 크기 $3의 절반보다 커서 픽셀이 하나도 없는 창이 생길 수 있습니다. 패딩은 $4 이하로 하세요"],
  ["\"(\\w+)\" padding of (\\d+) on spatial axis (\\d) needs (?:at least|more than) (\\d+) pixels and there are (\\d+); use a padding of at most (\\d+), or \"replicate\", which takes any", "공간 축 $3에서 \"$1\" 패딩 $2에 필요한 픽셀이 모자랍니다($5개뿐입니다). 패딩을 $6 이하로 하거나 얼마든지 받는 \"replicate\"를 쓰세요"],
  ["padding (.+?) on spatial axis (\\d) cuts off all of the (\\d+) pixels that an input of (\\d+), a kernel of (\\d+), stride (\\d+) and dilation (\\d+) make; use less padding", "공간 축 $2에서 패딩 $1이(가) 입력 $4, 커널 $5, 스트라이드 $6, 팽창 $7(으)로 만들어지는 픽셀 $3개를 모두 잘라 냅니다. 패딩을 줄이세요"],
  ["(\\d+) groups do not divide (\\d+) input channels and (\\d+) output channels", "그룹 $1개로는 입력 채널 $2개와 출력 채널 $3개를 나눌 수 없습니다"],
  ["needs images of shape (.+), not (\\(.*?\\))", "$1 모양의 이미지가 필요한데 $2이(가) 들어왔습니다"],
  ["needs flat values of shape \\(C,\\), not (\\(.*?\\)); put Flatten\\(\\) before it", "(C,) 모양의 펼친 값이 필요한데 $1이(가) 들어왔습니다. 앞에 Flatten()을 넣으세요"],
  ["that makes ([\\d,]+) parameters; this page builds up to ([\\d,]+)", "파라미터가 $1개가 됩니다. 이 페이지는 $2개까지 만듭니다"],
  ["the output (\\(.*?\\)) has more than ([\\d,]+) values; choose smaller sizes", "출력 $1의 값이 $2개보다 많습니다. 크기를 줄이세요"],
  ["the image has (\\d+) channels; at most (\\d+) are shown", "이미지의 채널이 $1개입니다. $2개까지 보여 줍니다"],
  ["cannot read the uploaded file as a (.+) image: it does not begin as one", "올린 파일은 이미지($1)가 아니어서 읽을 수 없습니다"],
  ["the uploaded file cannot be read: cut short, altered, or no image file \\((.+)\\)", "올린 파일이 잘렸거나 손상되어 읽을 수 없습니다($1)"],
  ["the uploaded file announces (\\d+)x(\\d+) pixels; images of more than ([\\d,]+) are refused", "올린 이미지가 $1×$2픽셀입니다. $3픽셀까지 받습니다"],
  ["the file has more than (\\d+) MiB; choose a smaller one", "파일이 $1 MiB보다 큽니다. 더 작은 것을 고르세요"],
  ["there is not enough memory for this; choose smaller sizes", "메모리가 모자랍니다. 크기를 줄이세요"],
  ["nothing is drawn: every pixel has the same value", "그린 것이 없습니다. 모든 픽셀의 값이 같습니다"],
  ["there is no run yet; train a network first", "아직 학습한 신경망이 없습니다. 먼저 학습시키세요"],
  ["(.+) has not finished an epoch yet", "$1은(는) 아직 에포크를 하나도 마치지 않았습니다"],
  ["(.+) has kept no weights of epoch (\\d+)", "$1에는 에포크 $2의 가중치가 남아 있지 않습니다"],
  ["(.+) does not say what it was trained on", "$1에 무엇으로 학습했는지 적혀 있지 않습니다"],
  ["(.+) gives a class to each pixel, not to an image, which this page does not show", "$1은(는) 이미지가 아니라 픽셀마다 클래스를 매기므로 이 페이지에서 보여 주지 않습니다"],
  ["(.+) does not tell classes apart; choose the run of a classifier", "$1은(는) 클래스를 구별하지 않습니다. 분류 신경망의 학습을 고르세요"],
  ["this network gives values, not classes: there is nothing to take for another", "이 신경망은 클래스가 아니라 값을 내므로 혼동할 클래스가 없습니다"],
  ["the network gives NaN or infinity for this image: its weights have become too large; train it with a smaller learning rate", "신경망이 이 이미지에 NaN이나 무한대를 냅니다. 가중치가 너무 커졌으니 학습률을 줄여 학습시키세요"],
  ["the probabilities contain NaN or infinity; the network's weights or images are not finite", "확률에 NaN이나 무한대가 있습니다. 신경망의 가중치나 이미지가 유한하지 않습니다"],
  ["a network is being trained already; wait for it, or stop it", "이미 학습 중인 신경망이 있습니다. 기다리거나 멈추세요"],
].map(([pattern, korean]) => [new RegExp(`^${pattern}$`), korean]);

// The sentence in Korean; null if there is none.
export function korean(text) {
  for (const [pattern, sentence] of KOREAN) {
    const found = text.match(pattern);
    if (!found) continue;
    const part = (number) => (number === "3" && sentence === KOREAN[0][1] ? korean(found[3]) ?? found[3] : found[number]);
    return sentence.replace(/\$(\d+)/g, (_, number) => part(number));
  }
  return null;
}
