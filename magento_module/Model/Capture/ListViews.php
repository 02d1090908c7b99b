<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\Mview\View\CollectionFactory;
use Magento\Framework\Mview\ViewInterface;

/**
 * The views whose changelogs the relay reads: those of the group "tocsin".
 */
class ListViews
{
    public const GROUP = 'tocsin';

    /**
     * @param CollectionFactory $viewsFactory
     */
    public function __construct(private readonly CollectionFactory $viewsFactory)
    {
    }

    /**
     * Return our views by id, with their state as the database has it now.
     *
     * @return array<string, ViewInterface>
     */
    public function execute(): array
    {
        $ours = [];
        /** @var ViewInterface $view */
        foreach ($this->viewsFactory->create() as $view) {
            if ($view->getData('group') === self::GROUP) {
                $ours[(string)$view->getId()] = $view;
            }
        }
        return $ours;
    }

    /**
     * Return the enabled views of others that watch one of `$tables` (names without prefix).
     *
     * @param string[] $tables
     * @return array<string, ViewInterface>
     */
    public function ofOthers(array $tables): array
    {
        $others = [];
        /** @var ViewInterface $view */
        foreach ($this->viewsFactory->create() as $view) {
            if ($view->getData('group') !== self::GROUP
                && $view->isEnabled()
                && array_intersect(array_column($view->getSubscriptions(), 'name'), $tables)
            ) {
                $others[(string)$view->getId()] = $view;
            }
        }
        return $others;
    }
}
