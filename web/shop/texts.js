/** The words of the page. `texts(lang)` picks them: English, or Chinese for zh and what follows it. */

const en = {
  title: "Sale", quantity: "How many", left: (n) => `Only ${n} left`,
  loading: "One moment…", soon: (t) => `Opens at ${t}`, opening: "Opening…", open: "On sale now",
  paused: "The sale is paused", pausedNote: "It goes on by itself. You need not reload.",
  closed: "The sale is over", missing: "There is no such sale",
  soldOut: "Sold out", mayReturn: (t) => `Some may come back at ${t}, if others do not pay.`,
  mayReturnOnce: "Some may come back, if others do not pay.",
  waiting: "Waiting for one to come back", ready: "You are ready: the button works at the opening.",
  preparing: "Getting you ready…", working: (p) => `Getting you ready… ${p} %`,
  buying: "Getting you one…", busy: "Many people are buying. You are in line, and need not press again.",
  queued: "It is yours. One moment…", yours: (t) => `Yours until ${t}`,
  payNote: "Pay before then, or somebody else gets it.", hurry: "Less than a minute left to pay",
  paying: "Your payment is being checked", payingNote: "You may close this page: the payment goes on.",
  atBank: "Your bank wants to ask you first", atBankNote: (t) => `Go to your bank, and come back here before ${t}.`,
  paid: "Paid. It is on its way!", refunding: "Your money is on its way back", refunded: "Your money is back",
  expired: "The time to pay is over.", cancelled: "You have cancelled.", rejected: "We are sorry: there was none left for you.",
  buy: "Buy", wait: "Buy one if it comes back", stop: "Stop", signIn: "Sign in to buy",
  card: "Pay by card", wallet: "Pay from my wallet", bank: "Continue at your bank", cancel: "Cancel the order",
  order: (id) => `Order ${id}`, amount: (n, sum) => `${n} × ${sum}`,
  errors: {
    declined: "Your card was declined. Try again, or another card.",
    insufficient_funds: "There is too little money in your wallet.", coupon_refused: "The coupon cannot be used.",
    expired: "The time to pay is over.", closed: "The sale is over.", too_few_left: "Not that many are left. Take fewer.",
    cancelled_too_often: "You have cancelled too often here. The order ends by itself when its time is over.",
    network: "You seem to be offline. We keep trying.", timeout: "The connection is slow. We keep trying.",
    no_cards: "Cards are not taken here.", unauthorized: "Please sign in again.",
    other: (code, id) => `That did not work (${code}${id && `, ${id}`}). Please try again.`,
  },
};

const zh = {
  title: "抢购", quantity: "数量", left: (n) => `仅剩 ${n} 件`,
  loading: "请稍候…", soon: (t) => `${t} 开抢`, opening: "即将开始…", open: "正在抢购",
  paused: "抢购已暂停", pausedNote: "恢复后会自动继续，无需刷新页面。",
  closed: "抢购已结束", missing: "没有这场抢购",
  soldOut: "已售罄", mayReturn: (t) => `如果有人未付款，${t} 可能会有余量。`,
  mayReturnOnce: "如果有人未付款，可能会有余量。",
  waiting: "正在等待余量", ready: "一切就绪：开抢时按钮即可使用。",
  preparing: "正在准备…", working: (p) => `正在准备… ${p}%`,
  buying: "正在为您抢购…", busy: "人数较多，您正在排队，无需重复点击。",
  queued: "抢到了！请稍候…", yours: (t) => `为您保留至 ${t}`,
  payNote: "请在此之前付款，否则将让给他人。", hurry: "付款时间不足一分钟",
  paying: "正在确认付款", payingNote: "可以关闭此页面，付款会继续进行。",
  atBank: "银行需要您确认", atBankNote: (t) => `请前往银行确认，并在 ${t} 前返回此页面。`,
  paid: "付款成功，即将发货！", refunding: "正在退款", refunded: "已退款",
  expired: "付款时间已过。", cancelled: "您已取消订单。", rejected: "很抱歉，没有抢到。",
  buy: "立即抢购", wait: "有余量时自动抢购", stop: "停止", signIn: "登录后抢购",
  card: "银行卡付款", wallet: "钱包付款", bank: "前往银行确认", cancel: "取消订单",
  order: (id) => `订单号 ${id}`, amount: (n, sum) => `${n} × ${sum}`,
  errors: {
    declined: "银行卡被拒绝，请重试或更换银行卡。",
    insufficient_funds: "钱包余额不足。", coupon_refused: "优惠券无法使用。",
    expired: "付款时间已过。", closed: "抢购已结束。", too_few_left: "剩余数量不足，请减少数量。",
    cancelled_too_often: "您取消的次数过多，订单将在到期后自动结束。",
    network: "网络似乎已断开，正在重试。", timeout: "网络较慢，正在重试。",
    no_cards: "此处不支持银行卡。", unauthorized: "请重新登录。",
    other: (code, id) => `操作未成功（${code}${id && `，${id}`}），请重试。`,
  },
};

/** The language of the page, by `?lang=` or the browser's list, and its words. */
export function texts(asked, preferred) {
  const lang = [asked, ...preferred].find((each) => /^(en|zh)\b/i.test(each ?? "")) ?? "en";
  return { lang, text: /^zh/i.test(lang) ? zh : en };
}
