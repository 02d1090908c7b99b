<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Framework\Mview\ConfigInterface;
use Magento\Framework\Mview\View\Collection;
use Magento\Framework\Mview\ViewInterfaceFactory;
use Tocsin\BreachNotification\Model\Capture\ListViews;

/**
 * Keeps our views in Magento's list of views. It puts those of indexers first and then joins the others by position, so
 * that a view without an indexer drops out once modules that come later bring enough indexers. A view that is not in the
 * list is never subscribed, and its statement goes when another view makes a shared trigger anew.
 */
class KeepViewsInCollection
{
    private const DONE = 'tocsin_views_are_in';

    /**
     * @param ConfigInterface $config
     * @param ViewInterfaceFactory $viewFactory
     */
    public function __construct(
        private readonly ConfigInterface $config,
        private readonly ViewInterfaceFactory $viewFactory
    ) {
    }

    /**
     * Add those of our views that were left out; ours come last, in the order of etc/mview.xml.
     *
     * @param Collection $subject
     * @param Collection $result
     * @return Collection
     */
    public function afterLoadData(Collection $subject, $result)
    {
        // Asking the collection for its items loads it, which leads here again.
        if ($subject->hasFlag(self::DONE)) {
            return $result;
        }
        $subject->setFlag(self::DONE, true);
        $listed = [];
        foreach ($subject->getItems() as $key => $view) {
            if ($view->getData('group') === ListViews::GROUP) {
                $listed[$view->getId()] = $view;
                $subject->removeItemByKey($key);
            }
        }
        foreach ($this->config->getViews() as $id => $view) {
            if (($view['group'] ?? '') === ListViews::GROUP) {
                $subject->addItem($listed[$id] ?? $this->viewFactory->create()->load($id));
            }
        }
        return $result;
    }
}
