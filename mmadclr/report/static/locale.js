// The chart library formats numbers in the language of the browser, and some browsers name one that does not exist.
try {
  new Intl.NumberFormat(navigator.language);
} catch (error) {
  Object.defineProperty(navigator, 'language', { value: 'en-US', configurable: true });
}
